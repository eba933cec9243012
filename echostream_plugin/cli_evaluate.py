"""`echostream evaluate --bundle B --data FOLDER --output OUT`: scores of a bundle, offline and simultaneously."""

import argparse
from pathlib import Path

from echostream_plugin.cli_errors import DONE
from echostream_plugin.evaluation.asr import ScoringASRError
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.rows import Evaluation, evaluate, write_results
from echostream_plugin.evaluation.table import TableError, replace_block, require_marks
from echostream_plugin.inference.errors import InputError

COLLAPSED = 3
DESCRIPTION = """Evaluates a bundle, offline and simultaneously, on a SimulEval folder: wav_list.txt, target.txt, maybe
src.txt and unit.txt. Every utterance is kept as it is done, so the same command resumes where it was stopped, with any
--jobs. Runs lie in a folder named by the digest of the bundle's content, so a bundle that was replaced is evaluated
anew. Writes results.json and results.md; --write-readme puts the table between the marks of a README. Exit code 3: the
model collapsed (one output for all)."""


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = DESCRIPTION
    add = parser.add_argument
    add("--bundle", required=True, type=Path, help="folder of the model bundle")
    add("--data", required=True, type=Path, help="folder with wav_list.txt and target.txt")
    add("--output", "-o", required=True, type=Path, help="folder of runs and results; resumed if it exists")
    add("--segments-ms", type=int, nargs="*", default=[320, 640, 960], help="segment sizes (default: 320 640 960)")
    add("--no-offline", action="store_true", help="leave the offline translation out")
    add("--no-asr-bleu", action="store_true", help="leave ASR-BLEU and speech WER out (no whisper)")
    add("--no-judge", dest="no_asr_bleu", action="store_true", help=argparse.SUPPRESS)  # as it was called before
    add("--units", type=Path, help="reference units, a line each, to resynthesise (default: unit.txt)")
    add("--no-units", action="store_true", help="leave out the resynthesis of the reference units")
    add("--limit", type=int, default=0, help="only the first so many utterances")
    add("--jobs", type=int, default=1, help="processes, one thread each (default: %(default)s)")
    add("--agent-args", default="", help="further flags for the agent, in quotes")
    add("--write-readme", type=Path, help="replace the results block of this file")
    parser.set_defaults(run=run_evaluation)


def run_evaluation(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code, 3 where a model says the same to everything."""
    words = tuple(args.argv[args.argv.index("evaluate") + 1 :])
    asked = Evaluation(**{name: getattr(args, name) for name in Evaluation.__dataclass_fields__} | {"command": words})
    try:
        if args.write_readme:
            require_marks(args.write_readme)
        rows = evaluate(asked)
        text = write_results(rows, asked)
        if args.write_readme:
            replace_block(args.write_readme, text)
    except (SimulError, ScoringASRError, TableError) as error:
        raise InputError(str(error)) from error
    print(text)
    return COLLAPSED if any(row.get("collapsed") for row in rows) else DONE
