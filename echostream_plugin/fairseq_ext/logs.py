"""What fairseq does to the logging of a program that imports it."""

import contextlib
import logging


@contextlib.contextmanager
def root_logger_kept():
    """The root logger stays as it was before what is imported inside: where a program has not set it up, one of
    fairseq's models (`wav2vec2_classification`) sets it to DEBUG, for every library of the process."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
