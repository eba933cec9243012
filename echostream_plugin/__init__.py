"""EchoStream: simultaneous speech-to-speech translation on an Emformer, as a fairseq plugin.

Importing the package registers task, criterion and models with fairseq where fairseq is installed; the inference core
(`echostream_plugin.inference`) works without it.
"""

import importlib.util

__version__ = "0.1.0"

if importlib.util.find_spec("fairseq") is not None and importlib.util.find_spec("echostream_plugin.fairseq_ext") is not None:
    from echostream_plugin import fairseq_ext  # noqa: F401  registration
