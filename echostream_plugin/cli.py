"""The command line: `echostream translate in.wav -o out/`; each command has its own module."""

import signal
import sys
import threading

# Ctrl-C while torch is loading ends the program at once: its imports swallow a KeyboardInterrupt now and then
_interrupt = signal.getsignal(signal.SIGINT)
_alone = threading.current_thread() is threading.main_thread() and _interrupt is signal.default_int_handler
try:
    if _alone:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import argparse
    import logging

    from echostream_plugin import __version__
    from echostream_plugin.cli_errors import EXIT_CODES, INTERRUPTED, guarded
    from echostream_plugin.cli_info import add_info_command
    from echostream_plugin.cli_live import add_live_command
    from echostream_plugin.cli_options import options_of
    from echostream_plugin.cli_serve import add_serve_command
    from echostream_plugin.cli_speak import add_speak_command
    from echostream_plugin.cli_transcribe import add_transcribe_command
    from echostream_plugin.cli_translate import add_translate_command, translate_recordings
    from echostream_plugin.config import ConfigError
    from echostream_plugin.inference.runs import translate_recording
finally:
    if _alone:
        signal.signal(signal.SIGINT, _interrupt)

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
  echostream info                               the model, this machine, its devices

No command writes over a file that is there, unless --overwrite is given, and never over what it reads.
"""

__all__ = ["build_parser", "main", "options_of", "translate_recording"]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "echostream",
        description="Simultaneous speech-to-speech translation.",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"echostream {__version__}")
    parser.add_argument("--log-level", choices=LEVELS, default="warning", help="what is logged (default: warning)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_translate_command(commands, lambda args: translate_recordings(args, translate_recording))
    add_transcribe_command(commands)
    add_speak_command(commands)
    add_serve_command(commands)
    add_live_command(commands)
    add_prepare(commands)
    add_info_command(commands)
    for command in commands.choices.values():
        command.add_argument("--log-level", choices=LEVELS, default=argparse.SUPPRESS, help="what is logged")
        command.epilog = "exit codes: 0 done, 1 not all of it, 2 wrong use, 130 Ctrl-C; see echostream --help"
    return parser


def add_prepare(commands):
    """`prepare`, or where packages for training are missing, the word which."""
    try:
        from echostream_plugin.cli_prepare import add_prepare_command
    except ImportError as error:
        reason = f"needs the package {error.name}: pip install 'echostream[train,eval,cvss]'"
        prepare = commands.add_parser("prepare", help=f"make training data of your own recordings; {reason}")
        prepare.add_argument("ignored", nargs=argparse.REMAINDER)
        prepare.set_defaults(run=lambda args: refuse(f"prepare {reason}"))
        return
    add_prepare_command(commands)


def refuse(reason: str):
    raise ConfigError(reason)


def main(argv=None) -> int:
    """Run a command; returns its exit code."""
    try:
        args = build_parser().parse_args(argv)
        logging.basicConfig(level=args.log_level.upper(), format="echostream: %(levelname)s: %(name)s: %(message)s")
        return guarded(args.run, args)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
