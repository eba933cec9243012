"""Source features: the Kaldi log-mel filter bank that fairseq computes, kept in one stored zip that fairseq reads.

A feature frame is 25 ms wide and 10 ms apart; [T, 80] float32, T = 1 + (n - 400) // 160 for n samples at 16 kHz.
"""

import io
import os
import zipfile
from pathlib import Path

import kaldi_native_fbank
import numpy as np

MEL_BINS = 80
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)  # two builds of the zip are the same bytes
_LOCAL_HEADER_BYTES = 30  # zip local file header before the name


def filterbank(wave):
    """wave: float32 [n] in [-1, 1] at 16 kHz; returns float32 [T, 80], no CMVN."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = 16000
    options.frame_opts.window_type = "povey"
    options.frame_opts.snip_edges = True
    options.mel_opts.num_bins = MEL_BINS
    options.use_energy = False
    bank = kaldi_native_fbank.OnlineFbank(options)
    bank.accept_waveform(16000, (np.asarray(wave, np.float64) * 2**15).tolist())
    bank.input_finished()
    frames = [bank.get_frame(i) for i in range(bank.num_frames_ready)]
    return np.stack(frames).astype(np.float32) if frames else np.zeros((0, MEL_BINS), np.float32)


class FeatureZip:
    """Writes `<id>.npy` members one after the other; a reader finds each by byte offset and size."""

    def __init__(self, path):
        self.path = Path(path)
        self._partial = self.path.with_name(self.path.name + ".part")
        self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_STORED)

    def add(self, name, features):
        """Returns (offset, size) in bytes of the stored npy."""
        buffer = io.BytesIO()
        np.save(buffer, features)
        entry = zipfile.ZipInfo(f"{name}.npy", _FIXED_DATE)
        self._zip.writestr(entry, buffer.getvalue())
        return entry.header_offset + _LOCAL_HEADER_BYTES + len(entry.filename.encode()), buffer.tell()

    def close(self):
        self._zip.close()
        os.replace(self._partial, self.path)


def read_stored(zip_path, offset, size):
    """The features at (offset, size) of a FeatureZip, as a fairseq reader finds them."""
    with open(zip_path, "rb") as file:
        file.seek(offset)
        return np.load(io.BytesIO(file.read(size)))


class MomentAccumulator:
    """Mean and standard deviation per mel bin over all frames added, in float64."""

    def __init__(self):
        self.count, self.total, self.squares = 0, np.zeros(MEL_BINS), np.zeros(MEL_BINS)

    def add(self, features):
        frames = features.astype(np.float64)
        self.count += len(frames)
        self.total += frames.sum(0)
        self.squares += np.square(frames).sum(0)

    def save(self, path):
        """gcmvn.npz with `mean` and `std`, float32 [80]."""
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - np.square(mean), 1e-10))
        save_npz(path, mean=mean.astype(np.float32), std=std.astype(np.float32))


def save_npz(path, **arrays):
    """numpy.savez without the time of day in it, written whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _FIXED_DATE), buffer.getvalue())
    os.replace(partial, path)
