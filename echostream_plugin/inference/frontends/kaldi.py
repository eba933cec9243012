"""fairseq's `get_fbank`: 80 Kaldi log-mel bins, 25 ms window, 10 ms hop, of the waveform scaled by 2^15 at 16 kHz
without dither."""

import kaldi_native_fbank as knf
import numpy as np

from echostream_plugin.constants import HOP_SAMPLES, MEL_BINS, SAMPLE_RATE, WINDOW_SAMPLES
from echostream_plugin.inference.frontends.base import FeatureExtractor, register_frontend


def fbank_options() -> knf.FbankOptions:
    """Kaldi's options for the features of this project."""
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.dither = 0.0
    options.frame_opts.frame_length_ms = 25.0
    options.frame_opts.frame_shift_ms = 10.0
    options.frame_opts.window_type = "povey"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = MEL_BINS
    return options


def frame_count(samples: int) -> int:
    """Feature frames of so many samples at 16 kHz (Kaldi's snip_edges): none under 25 ms."""
    return max(0, 1 + (samples - WINDOW_SAMPLES) // HOP_SAMPLES)


@register_frontend
class StreamingFbank(FeatureExtractor):
    """Log-mel features of 16 kHz audio; one object serves one utterance and keeps under a window of samples."""

    DESCRIPTION = {
        "kind": "kaldi-fbank",
        "bins": MEL_BINS,
        "window_samples": WINDOW_SAMPLES,
        "hop_samples": HOP_SAMPLES,
        "scale": 32768,
    }
    SAVED = ("given", "held")

    def __init__(self):
        self.given = 0  # feature frames so far
        self.held = np.zeros(0, dtype=np.float32)  # samples from the start of the next frame on
        self._begin()

    def _begin(self):
        """Kaldi's extractor; its frame 0 is the next one."""
        self._fbank = knf.OnlineFbank(fbank_options())
        self._taken = 0  # frames of this extractor

    def push(self, samples: np.ndarray) -> np.ndarray:
        if len(samples):
            self._fbank.accept_waveform(SAMPLE_RATE, (samples * 32768.0).tolist())
        ready = self._fbank.num_frames_ready
        # copies: a frame is a view into memory that pop frees
        frames = [np.array(self._fbank.get_frame(i)) for i in range(self._taken, ready)]
        new, self._taken = ready - self._taken, ready
        self._fbank.pop(new)
        self.given += new
        self.held = np.concatenate([self.held, samples])[new * HOP_SAMPLES :].copy()  # no view of a long push
        return np.stack(frames) if frames else np.zeros((0, MEL_BINS), dtype=np.float32)

    def restore(self, saved: dict):
        super().restore(saved)
        self._begin()
        if len(self.held):
            self._fbank.accept_waveform(SAMPLE_RATE, (self.held * 32768.0).tolist())

    frame_count = staticmethod(frame_count)

    @staticmethod
    def loudness_db(log_mel: np.ndarray) -> np.ndarray:
        """log_mel: [t, bins] natural logarithms of energies; returns their mean in dB, [t].

        The mean of the logarithms, for the sum of the energies hears mostly the wide bins, where noise is strongest."""
        return log_mel.mean(axis=1) * (10 / np.log(10))
