"""Discrete speech units at 50 Hz: k-means over features of the target speech, one unit per 320 samples at 16 kHz.

Two feature sets. `whisper`: the encoder output of whisper-base, which knows what is said better than how.
`logmel`: three stacked log-mel frames after PCA, which needs no model but follows pitch and loudness too.

Measured on 360 utterances of the quickstart's target speech (`examples/quickstart/compare_units.py`), whisper units: of
the log-mel variance a linear map explains 0.797 with K = 250, 0.812 with 400 and 0.828 with 500 (19.6, 20.6 and 20.9
units a second); of the first 200 ms 0.870, 0.891 and 0.899. By this measure a lead-in makes no difference (K = 400:
0.814 and 0.893 without, 0.812 and 0.891 with 200 or 500 ms). It keeps a wave's first units from lying at whisper's
first positions, whatever the wave begins with.
"""

import dataclasses

import numpy as np

from echostream_plugin.constants import SAMPLE_RATE, UNIT_SAMPLES
from echostream_plugin.data.feature_zip import save_npz
from echostream_plugin.data.whisper_base import whisper_folder

UNIT_SETS = ("whisper", "logmel")
_POSITIONS = 1500  # whisper's 30 s of 20 ms frames
LEAD_IN, LEAD_OUT = 25, 10  # units of silence around a wave: whisper hardly hears how its input begins


# -------------------------------------------------------------------------------------------------------- features


class LogMelFeatures:
    """wave [n], n a multiple of 320 -> float32 [n / 320, 240]: 25 ms windows 20 ms apart, each with its neighbours."""

    name = "logmel"
    window, bands, fft = 400, 80, 512

    def __init__(self):
        self._taper = np.hanning(self.window + 1)[:-1].astype(np.float32)
        self._mel = mel_matrix(self.bands, self.fft, SAMPLE_RATE)

    def __call__(self, wave):
        frames = whole_units(wave)
        side = (self.window - UNIT_SAMPLES) // 2  # the window is centred on its unit's 320 samples
        padded = np.pad(wave, (side, self.window))
        starts = np.arange(frames)[:, None] * UNIT_SAMPLES + np.arange(self.window)
        spectrum = np.abs(np.fft.rfft(padded[starts] * self._taper, self.fft)) ** 2
        mel = np.log(np.maximum(spectrum @ self._mel.T, 1e-5))
        around = np.pad(mel, ((1, 1), (0, 0)), mode="edge")
        return np.concatenate([around[:-2], around[1:-1], around[2:]], axis=1).astype(np.float32)


class WhisperFeatures:
    """wave [n], n a multiple of 320 -> float32 [n / 320, 512]: whisper-base's encoder, run on no more than the wave.

    Silence leads in and out, and what the encoder makes of it is dropped. A longer wave is read in windows of `window`
    units, each with what lies around it in the wave instead of silence.
    """

    name = "whisper"

    def __init__(self, threads=1, lead_in=LEAD_IN):
        """lead_in: units of silence before a wave; other values are for comparisons."""
        from faster_whisper import WhisperModel

        self._set_lead_in(lead_in)
        self._model = WhisperModel(str(whisper_folder()), device="cpu", compute_type="int8", cpu_threads=threads)

    def _set_lead_in(self, units):
        self.lead_in, self.window = units, _POSITIONS - units - LEAD_OUT

    def __call__(self, wave):
        frames = whole_units(wave)
        padded = np.pad(wave, (self.lead_in * UNIT_SAMPLES, LEAD_OUT * UNIT_SAMPLES))
        windows = []
        for start in range(0, frames, self.window):
            stop = min(start + self.window, frames) + self.lead_in + LEAD_OUT
            windows.append(self._encode(padded[start * UNIT_SAMPLES : stop * UNIT_SAMPLES])[self.lead_in : -LEAD_OUT])
        return np.concatenate(windows)

    def _encode(self, wave):
        """wave [n] of at most 30 s -> [n / 320, 512]"""
        import ctranslate2

        frames = wave.size // UNIT_SAMPLES
        mel = self._model.feature_extractor(np.asarray(wave, np.float32), padding=SAMPLE_RATE // 10)[:, : 2 * frames]
        view = ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], np.float32))
        return np.array(self._model.model.encode(view, to_cpu=True))[0].astype(np.float32)


def whole_units(wave):
    """How many units of 20 ms a wave [n] at 16 kHz is. Raises ValueError where a part of one is left."""
    if wave.size == 0 or wave.size % UNIT_SAMPLES:
        raise ValueError(f"{wave.size} samples are no whole number of units of {UNIT_SAMPLES} samples; pad the wave")
    return wave.size // UNIT_SAMPLES


def mel_matrix(bands, fft, rate):
    """Triangular mel filters, float32 [bands, fft // 2 + 1], peaks of 1."""
    to_mel = lambda hz: 1127.0 * np.log1p(hz / 700.0)  # noqa: E731
    edges = 700.0 * np.expm1(np.linspace(to_mel(20.0), to_mel(rate / 2), bands + 2) / 1127.0)
    bins = np.arange(fft // 2 + 1) * rate / fft
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def make_features(name):
    """The features of a unit set, by its name in UNIT_SETS."""
    return {"whisper": WhisperFeatures, "logmel": LogMelFeatures}[name]()


# --------------------------------------------------------------------------------------------------------- k-means


@dataclasses.dataclass(frozen=True)
class UnitModel:
    """Features -> units: (x - offset[position]) smoothed over three frames, @ projection, then the nearest centroid.

    Without the smoothing (weights 1/4, 1/2, 1/4) units flicker between neighbours: with 250 whisper units there were
    22.9 instead of 18.8 a second, and 14 % instead of 8 % differed when a sentence was spoken 8 % slower.

    offset: [P, F], what the features' mean is at each of a window's positions (P = 1 where position does not matter);
    projection: [F, d] of standardised PCA; centroids: [K, d].
    """

    offset: np.ndarray
    projection: np.ndarray
    centroids: np.ndarray

    def __call__(self, features):
        """features: [T, F]; returns int [T] in 0..K-1."""
        x = self.project(features)
        distance = np.square(self.centroids).sum(1) - 2 * x @ self.centroids.T
        return distance.argmin(1)

    def project(self, features):
        """features: [T, F]; returns [T, d], of which the centroids are centres."""
        return _centre(features, self.offset) @ self.projection

    def save(self, path):
        """Write an npz that `load` reads."""
        save_npz(path, offset=self.offset, projection=self.projection, centroids=self.centroids)

    @classmethod
    def load(cls, path):
        """The model of `save`."""
        with np.load(path) as file:
            return cls(file["offset"], file["projection"], file["centroids"])


class ProjectedFeatures:
    """wave -> [T, d] of a unit model's projection, so that its units are the nearest centroids.

    make: what makes the features of a wave, called here, in the process that uses them; path: of the unit model."""

    def __init__(self, make, path):
        self._features, self._model = make(), UnitModel.load(path)

    def __call__(self, wave):
        return self._model.project(self._features(wave))


def fit_units(features, waves, clusters, seed, dims=128, progress=iter):
    """features: a feature set; waves: list of float32 [n]; returns a UnitModel of at most `clusters` units.

    Whisper's encoder adds its position to every frame. Its share is measured on speech laid end to end, where no
    position has a sound of its own, and taken away.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    frames = [features(wave) for wave in progress(waves)]
    if features.name == "whisper":
        offset = _position_offset(features, waves, progress)
    else:
        offset = np.concatenate(frames).mean(0, keepdims=True)
    centred = np.concatenate([_centre(frame, offset) for frame in frames]).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(centred, rowvar=False))
    order = np.argsort(values)[::-1][:dims]
    # the square root of whitening: the loudest directions still count more, but do not rule alone
    projection = vectors[:, order] / np.maximum(values[order], 1e-8) ** 0.25
    projected = (centred @ projection).astype(np.float32)
    clusters = min(clusters, len(projected) // 4)
    with threadpool_limits(1):
        means = KMeans(clusters, n_init=1, max_iter=60, random_state=seed).fit(projected)
    return UnitModel(*(array.astype(np.float32) for array in (offset, projection, means.cluster_centers_)))


def _centre(features, offset):
    """features: [T, F]; offset: [P, F]; the difference, smoothed over three frames."""
    rows = np.arange(len(features)) % len(offset)
    around = np.pad(features - offset[rows], ((1, 1), (0, 0)), mode="edge")
    return 0.25 * around[:-2] + 0.5 * around[1:-1] + 0.25 * around[2:]


def _position_offset(features, waves, progress):
    """Mean of whisper's features at each position of a window, over streams of the waves laid end to end."""
    speech = np.concatenate(waves)
    length = features.window * UNIT_SAMPLES
    count = max(1, speech.size // length)
    streams = [np.resize(speech[i * length : (i + 1) * length], length) for i in range(count)]
    mean = sum(features(stream).astype(np.float64) for stream in progress(streams)) / count
    # neighbours share most of their position; a moving average of 0.5 s takes out what little speech is left
    kernel = np.ones(25) / 25
    padded = np.pad(mean, ((12, 12), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], axis=1)
