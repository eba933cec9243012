#!/usr/bin/env python3
"""Hear EchoStream translate: the bundled recordings and those of people, your own one, or a sentence of the domain.

    python scripts/demo.py --output demo_out
    python scripts/demo.py --output demo_out --wav my.wav
    python scripts/demo.py --output demo_out --text "¿Dónde está la estación?"

The recordings go through SimulEval with agent/echostream_agent.py, a segment at a time. For each recording the output
folder gets source.wav, translated.wav, together.wav (source left, translation right, as a listener has them in time),
written.tsv (both texts as they grew) and timeline.png; over all of them index.html (everything to hear and see on one
page, with who speaks and the licence), scores.json, scores.tsv and summary.txt, which begins with what came out right.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from echostream_plugin.data import DataError
from echostream_plugin.evaluation.asr import ScoringASR, ScoringASRError
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.demo import (
    DemoError,
    Recording,
    bundled_recordings,
    demonstrate,
    fresh_folder,
    own_recording,
)
from echostream_plugin.inference.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "examples" / "quickstart"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo_out"), help="folder for what the demo makes")
    parser.add_argument("--bundle", type=Path, default=QUICKSTART / "bundle", help="folder of the model bundle")
    parser.add_argument(
        "--recordings", type=Path, metavar="FOLDER",
        help="play people's recordings of this folder too (default: those beside the bundled model)",
    )  # fmt: skip
    parser.add_argument("--segment-ms", type=int, default=320, help="how much speech goes in at a time")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--no-asr", action="store_true", help="no transcripts of the translated speech (no whisper)")
    parser.add_argument("--no-judge", dest="no_asr", action="store_true", help=argparse.SUPPRESS)  # its earlier name
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--wav", type=Path, help="your own recording, any format and rate that libsndfile reads")
    given.add_argument("--text", help="a sentence of the demo's domain, spoken by espeak")
    return parser.parse_args(argv)


def spoken_sentence(text: str) -> Recording:
    """A sentence of the grammar, spoken by espeak; another one is refused with sentences that would do."""
    grammar, speech = _quickstart("grammar"), _quickstart("speech")
    if not text.strip():
        raise DemoError('the text is empty; try TEXT="¿Dónde está la estación?"')
    target = grammar.translate(text)
    if target is None:
        likely = "\n".join(f"  {sentence}" for sentence in grammar.nearest(text, 3))
        raise DemoError(f'the small model knows a traveller\'s sentences, and not "{text}". Near ones:\n{likely}')
    return Recording("sentence", speech.speak_spanish(text), speech.SAMPLE_RATE, text, target)


def _quickstart(name: str):
    """A module of examples/quickstart, by path (`examples` is the name of other projects' packages too)."""
    path = QUICKSTART / f"{name}.py"
    sys.path.insert(0, str(QUICKSTART))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(QUICKSTART))


def main(argv=None) -> int:
    args = parse_args(argv)
    try:
        recordings = choose(args)
        output = fresh_folder(args.output, (args.bundle, *([args.wav] if args.wav is not None else [])))
        asr = None if args.no_asr else ScoringASR(threads=args.jobs)
        return demonstrate(recordings, args.bundle, output, args.segment_ms, args.jobs, asr)
    except (DemoError, DataError, InputError, SimulError, ScoringASRError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or args.output}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; what was done is in {args.output}", file=sys.stderr)
        return 130


def choose(args) -> list[Recording]:
    """What is to be translated; anything wrong with it is said before the last demo's output goes."""
    if args.segment_ms < 1 or args.jobs < 1:
        raise DemoError(f"--segment-ms {args.segment_ms} --jobs {args.jobs}: each must be at least 1")
    if not (args.bundle / "model.safetensors").is_file():
        raise DemoError(f"{args.bundle}: holds no model.safetensors; examples/quickstart/train.sh makes a bundle")
    if args.wav is not None:
        return [own_recording(args.wav)]
    if args.text is not None:
        return [spoken_sentence(args.text)]
    beside = QUICKSTART / "recordings" if args.bundle.resolve() == (QUICKSTART / "bundle").resolve() else None
    return bundled_recordings(args.bundle, args.recordings or beside)


if __name__ == "__main__":
    sys.exit(main())
