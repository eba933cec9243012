"""EchoStream: simultaneous speech-to-speech translation on an Emformer, as a fairseq plugin.

fairseq's `--user-dir` imports this package, which registers task, criterion and models. Where fairseq is not running,
nothing of it is loaded: the inference core (`echostream_plugin.inference`) works alone. A program of yours that uses
both asks for the registration by `import echostream_plugin.fairseq_ext`.
"""

import sys

__version__ = "0.1.0"

if "fairseq" in sys.modules:
    from echostream_plugin import fairseq_ext  # noqa: F401  registration
