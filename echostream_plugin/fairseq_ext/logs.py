"""What fairseq does to the logging of a program that imports it."""

import contextlib
import logging


@contextlib.contextmanager
def root_logger_kept():
    """The root logger as it was, after whatever is imported inside: in a program that has not set it up, one of
    fairseq's models (`wav2vec2_classification`) sets it to DEBUG, and every library of the process reports each font
    it looks at."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
