"""The only folder that imports fairseq: importing it registers model, task and criterion under StreamSpeech's names."""

import argparse

import torch

from echostream_plugin.fairseq_ext import criterion, model, task  # noqa: F401

# fairseq reads checkpoints by torch.load, which since torch 2.6 unpickles nothing but tensors and plain values unless
# told; a checkpoint of fairseq-train also holds its options, in a Namespace. No code of the file is run.
torch.serialization.add_safe_globals([argparse.Namespace])
