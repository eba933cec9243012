"""How the command line ends: exit codes, and one line for whatever went wrong."""

import errno
import logging
import os
import signal
import sys

from echostream_plugin.config import ConfigError
from echostream_plugin.inference.errors import BundleError, InputError, OutputError, SessionError

DONE, INCOMPLETE, USAGE, DEFECT, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 70, 130, 141
EXIT_CODES = """\
exit codes:
  0    everything was done
  1    a recording or a result could not be read or written, or not to its end; what was done is kept
  2    the command cannot be carried out as it is: a flag, a name, the bundle, results that are already there
  70   a defect of this program; --log-level debug shows where
  130  stopped by Ctrl-C; what was done is kept
  141  whoever read the standard output has gone
"""

logger = logging.getLogger(__name__)


class OverwriteError(OutputError):
    """A result would take the place of a file that is there."""


def warn(text: str):
    """A line on the standard error, whatever becomes of it."""
    try:
        print(f"echostream: {' '.join(str(text).split())}", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # nobody reads it
        pass


def check_free(path, overwrite: bool):
    """Raise OverwriteError where a file is there already and is not to be replaced."""
    if os.path.lexists(path) and not overwrite:
        raise OverwriteError(f"{path}: is there already; name another file, or give --overwrite")


def guarded(run, args) -> int:
    """The exit code of `run(args)`, whatever it raises."""
    prepare_streams()
    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except (BundleError, ConfigError, InputError, OverwriteError, SessionError) as error:
        warn(error)
        return USAGE
    except KeyboardInterrupt:
        signal_off()
        warn("stopped; what was done is kept")
        code = INTERRUPTED
    except BrokenPipeError:
        code = BROKEN_PIPE
    except OutputError as error:
        warn(error)
        code = INCOMPLETE
    except OSError as error:
        warn(what_happened(error))
        code = INCOMPLETE
    except MemoryError:
        warn("not enough memory; what was done is kept")
        code = INCOMPLETE
    except Exception as error:  # a traceback helps nobody but us
        logger.debug("defect", exc_info=True)
        warn(f"a defect of this program: {type(error).__name__}: {error} (--log-level debug shows where)")
        code = DEFECT
    forget_output()
    return code


def what_happened(error: OSError) -> str:
    """In one line, with the file where it is known."""
    name = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{name}the disk is full; what was done is kept, and the same command goes on from there"
    return f"{name}{error.strerror or error}"


def prepare_streams():
    """Standard streams that are there, and take whatever characters a file's name has."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who called us
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def signal_off():
    """A second Ctrl-C does not disturb the end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread
        pass


def forget_output():
    """Flush the standard output, or let what it holds go nowhere, so that Python does not complain at its end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        try:
            descriptor = sys.stdout.fileno()
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        except (OSError, ValueError):  # no file at all
            pass
