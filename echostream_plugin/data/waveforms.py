"""Training straight from recordings: features are computed when they are read, and stored nowhere."""

from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.data.feature_zip import Moments
from echostream_plugin.data.parallel import Workers
from echostream_plugin.inference.audio import read_audio
from echostream_plugin.inference.features import raw_features
from echostream_plugin.inference.frontends.kaldi import frame_count

CMVN_UTTERANCES = 3000  # that mean and deviation of the features are taken from


def frames_of(path) -> int:
    """Feature frames of 10 ms of a recording of any rate, from its header."""
    info = soundfile.info(path)
    return frame_count(info.frames * SAMPLE_RATE // info.samplerate)


def features_of(path) -> np.ndarray:
    """Log-mel features [T, 80] of a recording, no CMVN."""
    return raw_features(*read_audio(path))


def write_cmvn(path, recordings: list, workers: Workers) -> None:
    """gcmvn.npz from at most CMVN_UTTERANCES of the training recordings, spread over them."""
    if Path(path).is_file():
        return
    moments = Moments()
    picked = recordings[:: max(1, len(recordings) // CMVN_UTTERANCES)]
    for features in workers.ordered(features_of, picked, "mean and deviation"):
        moments.add(features)
    moments.save(path)
