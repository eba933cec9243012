"""From a waveform to normalised log-mel features, a piece at a time.

Audio is mono float32 in [-1, 1]. Each encoder names the features that it reads, a key of `frontends.FRONTENDS`; those
that do not come normalised go through global CMVN.
"""

from numbers import Real

import numpy as np

from echostream_plugin.constants import MAX_RATE, MIN_RATE, SAMPLE_RATE
from echostream_plugin.inference.downmix import Downmix
from echostream_plugin.inference.errors import InputError
from echostream_plugin.inference.frontends import FRONTENDS
from echostream_plugin.inference.resample import StreamingResampler
from echostream_plugin.inference.snapshot import give, take

MAX_CHANNELS = 8
MAX_AMPLITUDE = 100.0  # beyond any float recording; integers stored as floats are far above it


def to_mono(samples, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """A whole recording checked (`checked_audio`) and its channels made one (`Downmix`). Returns [n] float32."""
    return Downmix(sample_rate).push(checked_audio(samples))


def checked_audio(samples) -> np.ndarray:
    """Check a piece of audio.

    samples: [n] or [n, channels]: floats in [-1, 1], or int16/int32, which are scaled; lists, arrays or CPU tensors.
    Returns [n] or [n, channels] floats. Raises InputError for anything that is not audio: other shapes and types, NaN,
    infinity, floats far outside [-1, 1].
    """
    try:
        array = np.asarray(samples)
    except Exception as error:  # ragged lists, tensors on other devices: whatever numpy refuses
        raise InputError(f"samples: cannot be read as an array of numbers ({error})") from error
    if array.size == 0:
        return np.zeros(0, dtype=np.float32)
    if array.ndim not in (1, 2):
        raise InputError(f"samples: expected shape [n] or [n, channels], got {list(array.shape)}")
    if array.ndim == 2 and array.shape[1] > MAX_CHANNELS:
        raise InputError(
            f"samples: shape {list(array.shape)} would be {array.shape[1]} channels (at most {MAX_CHANNELS}); "
            "channels are the second axis, transpose an array of shape [channels, n]"
        )
    if array.dtype in (np.int16, np.int32):
        array = array.astype(np.float32) / float(-np.iinfo(array.dtype).min)
    elif not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"samples: type {array.dtype} is not audio; use float in [-1, 1], int16 or int32")
    if not np.isfinite(array).all():
        bad = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
        raise InputError(f"samples: not a finite number at position {bad} of {len(array)}; this piece is refused whole")
    if np.abs(array).max() > MAX_AMPLITUDE:
        raise InputError(f"samples: floats up to {np.abs(array).max():.4g}; scale them to [-1, 1] or pass int16")
    return array.astype(np.float32) if array.dtype == np.float16 else array


def check_rate(sample_rate) -> int:
    """The rate as an int. Raises InputError for one that is not a whole number from 4,000 to 384,000 Hz."""
    if not isinstance(sample_rate, Real) or sample_rate % 1 or not MIN_RATE <= sample_rate <= MAX_RATE:
        raise InputError(f"sample rate {sample_rate!r}: expected a whole number from {MIN_RATE} to {MAX_RATE} Hz")
    return int(sample_rate)


class Frontend:
    """Audio of one utterance at one sample rate in, features ready for the encoder out.

    Whoever else listens (`inference.vad`) is pushed the audio at 16 kHz."""

    def __init__(
        self,
        sample_rate: int,
        cmvn_mean: np.ndarray,
        cmvn_std: np.ndarray,
        kind: str = "kaldi-fbank",
        listener=None,
    ):
        """kind: a key of FRONTENDS, what the encoder's configuration calls its `features`; listener: what has
        `push(samples)` like the extractor of features. Raises InputError for a rate that is not a whole number from
        4,000 to 384,000 Hz."""
        self.sample_rate = check_rate(sample_rate)
        self._downmix = Downmix(self.sample_rate)
        self._resampler = StreamingResampler(self.sample_rate, SAMPLE_RATE)
        self._listener = listener
        self._extractor = FRONTENDS[kind]()
        self._mean = np.asarray(cmvn_mean, dtype=np.float32)
        self._scale = 1.0 / np.asarray(cmvn_std, dtype=np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """samples: [n] or [n, channels] of `checked_audio` at `sample_rate`; returns normalised features [t, 80]."""
        return self._features(self._resampler.push(self._downmix.push(samples)))

    def finish(self) -> np.ndarray:
        """The features that the resampler's last samples complete."""
        return self._features(self._resampler.finish())

    def snapshot(self) -> dict:
        """What `restore` needs, for `inference.snapshot`."""
        return {"downmix": take(self._downmix), "resampler": take(self._resampler), "fbank": take(self._extractor)}

    def restore(self, saved: dict):
        """Go on where another front end of this rate was."""
        give(self._downmix, saved["downmix"])
        give(self._resampler, saved["resampler"])
        self._extractor.restore(saved["fbank"])

    def _features(self, samples: np.ndarray) -> np.ndarray:
        if self._listener is not None:
            self._listener.push(samples)
        return (self._extractor.push(samples) - self._mean) * self._scale


def features_of(samples, sample_rate: int, cmvn_mean, cmvn_std, kind: str = "kaldi-fbank") -> np.ndarray:
    """Normalised features [T, 80] of a whole recording; kind: a key of FRONTENDS."""
    frontend = Frontend(sample_rate, cmvn_mean, cmvn_std, kind)
    return np.concatenate([frontend.push(checked_audio(samples)), frontend.finish()])


def raw_features(samples, sample_rate: int, kind: str = "kaldi-fbank") -> np.ndarray:
    """Features [T, bins] of a whole recording as they are stored for training, without CMVN."""
    bins = FRONTENDS[kind].DESCRIPTION["bins"]
    return features_of(samples, sample_rate, np.zeros(bins), np.ones(bins), kind)
