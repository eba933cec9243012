"""The command line: `echostream translate in.wav -o out/`; each command has its own module."""

import argparse
import atexit
import gc
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Callable

from echostream_plugin import __version__
from echostream_plugin.cli_errors import EXIT_CODES, INTERRUPTED, guarded
from echostream_plugin.config import ConfigError

LEVELS = ("debug", "info", "warning", "error")
EXAMPLES = """\
examples:
  echostream translate talk.wav -o out          voice, texts, subtitles and events, in the folder out
  echostream translate *.mp3 -o out             each recording in a folder of its own
  arecord -f S16_LE -r 16000 | echostream translate - -o out
  cat talk.wav | echostream translate - -o -    events as json lines on the standard output
  echostream transcribe talk.wav                what is said, in its own language
  echostream speak "where is the station" -o station.wav
  echostream serve                              live, in the browser; live: the same in the terminal
  echostream prepare table.tsv -o corpus        training data of your own recordings
  echostream evaluate --bundle B --data LISTS -o eval
  echostream bundle --checkpoint checkpoint_best.pt --vocoder V -o BUNDLE
  echostream card checkpoint_best.pt            what is in a checkpoint or a bundle
  echostream info                               the model, this machine, its devices

No command writes over a file that is there, unless --overwrite is given, and never over what it reads.
"""

COMMANDS = {  # the modules `cli_<name>` ("_" for "-"), read when the command is used: torch takes a second
    "translate": "translate recordings as if they were spoken now",
    "transcribe": "write down what is said in a recording",
    "speak": "speak a text of the target language with the model's voice",
    "serve": "translate live: a web page with a microphone, and a websocket",
    "live": "translate the microphone, in the terminal",
    "prepare": "make training data of your own parallel recordings",
    "evaluate": "score a bundle, offline and simultaneously",
    "average": "average checkpoints of one training",
    "bundle": "make a bundle of a checkpoint: what all the commands above read",
    "card": "describe a checkpoint or a bundle: parts, flags, training",
    "from-bundle": "make a bundle a checkpoint that trains on",
    "info": "describe a model, this machine and its devices",
    "benchmark": "measure what a second of speech costs here",
}
EXTRAS = {  # what a command needs besides the inference core
    "prepare": "train,eval,cvss",
    "evaluate": "eval",
    "average": "train",
    "bundle": "train,eval",
    "benchmark": "train,eval",
    "card": "train",
    "from-bundle": "train",
}

__all__ = ["COMMANDS", "build_parser", "main"]


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, or with the flags of one only: the others have their names."""
    parser = argparse.ArgumentParser(
        "echostream",
        description="Simultaneous speech-to-speech translation.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"echostream {__version__}")
    parser.add_argument("--log-level", choices=LEVELS, default="warning", help="what is logged (default: warning)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if only in (None, name):
            configure(name, command)
            command.add_argument("--log-level", choices=LEVELS, default=argparse.SUPPRESS, help="what is logged")
            command.epilog = "exit codes: 0 done, 1 not all of it, 2 wrong use, 130 Ctrl-C; see echostream --help"
    return parser


def configure(name: str, command: argparse.ArgumentParser):
    """The flags of a command; where packages for it are missing, the word which."""
    try:
        module = f"echostream_plugin.cli_{name.replace('-', '_')}"
        uninterrupted(lambda: importlib.import_module(module)).configure(command)
    except ImportError as error:
        if name not in EXTRAS:
            raise
        reason = f"{name} needs the package {error.name}: pip install 'echostream[{EXTRAS[name]}]'"
        command.description = reason
        command.add_argument("ignored", nargs=argparse.REMAINDER)
        command.set_defaults(run=lambda args: refuse(reason))


def refuse(reason: str):
    """Raise ConfigError for what argparse finds wrong, in place of its own exit."""
    raise ConfigError(reason)


def uninterrupted(load: Callable):
    """What `load()` gives. Ctrl-C while torch is loading ends the program at once: its imports swallow a
    KeyboardInterrupt now and then."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        return load()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return load()
    finally:
        signal.signal(signal.SIGINT, before)


def named(argv: list) -> str:
    """The command of a command line; "" where there is none. A level of --log-level may have a command's name."""
    words = (word for before, word in zip(["", *argv], argv, strict=False) if before != "--log-level")
    return next((word for word in words if word in COMMANDS), "")


def main(argv=None) -> int:
    """Run a command; returns its exit code. argv: default that of the process, which is then about to end."""
    if argv is None:
        atexit.register(gc.freeze)  # else the interpreter looks through all of torch for garbage, half a second
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = build_parser(named(argv)).parse_args(argv)
        logging.basicConfig(level=args.log_level.upper(), format="echostream: %(levelname)s: %(name)s: %(message)s")
        args.argv = argv
        return guarded(args.run, args)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
