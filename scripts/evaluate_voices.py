#!/usr/bin/env python3
"""Evaluate a bundle on voices: those of the training, one that it never heard, people, noise, recordings in a row, and
audio that is no speech of its language.

    python scripts/evaluate_voices.py --bundle BUNDLE --corpus work/quickstart/corpus --output eval --jobs 2
    ... --left-out pico=OTHER_BUNDLE      (c): a model trained without an engine, on that engine
    ... --also "another speaker=FOLDER"   any other folder of wav_list.txt, target.txt, src.txt
    ... --most 40                         the first 40 recordings of each set: a quick look

Recordings go in 320 ms at a time. Every one is kept as it is done, so the same command goes on where it stopped, with
any --jobs; runs lie in a folder named by the digests of the bundle's content and of the options. Writes voices.json and
voices.md with 95 % intervals.
"""

import argparse
import datetime
import logging
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from echostream_plugin.config import ConfigError  # noqa: E402
from echostream_plugin.data.tables import DataError  # noqa: E402
from echostream_plugin.evaluation import early, voices  # noqa: E402
from echostream_plugin.evaluation.intervals import CorpusBleu, CorpusWer, bootstrap  # noqa: E402
from echostream_plugin.evaluation.judge import Judge, JudgeError, read_mono  # noqa: E402
from echostream_plugin.evaluation.resynthesis import read_back  # noqa: E402
from echostream_plugin.evaluation.simul import SimulError, read_list  # noqa: E402
from echostream_plugin.evaluation.table import commit, markdown_table, write_atomically, write_json  # noqa: E402
from echostream_plugin.evaluation.voices import VARIANTS, Folder, Runner  # noqa: E402
from echostream_plugin.inference.bundle import load_bundle  # noqa: E402
from echostream_plugin.inference.digest import bundle_digest, value_digest  # noqa: E402
from echostream_plugin.inference.errors import BundleError  # noqa: E402
from echostream_plugin.inference.options import FRAME_MS, bundle_options, read_policy  # noqa: E402

DIGITS = 12  # of a digest, in names and tables
PARTS = ("a", "b", "c", "d", "e", "f", "g", "units", "early")
EARLY_RECORDINGS = 100
QUALITY = {
    "part": "", "set": "recordings of", "recordings": "n", "text_bleu": "text BLEU", "chrf": "chrF",
    "asr_bleu": "ASR-BLEU", "wer": "source WER %", "exact": "exactly right %", "refused": "refused %", "AL": "AL ms",
}  # fmt: skip
LOSSES = {
    "condition": "condition", "recordings": "n", "text_bleu": "text BLEU", "lost": "text BLEU lost",
    "refused": "refused %",
}  # fmt: skip
ROWS = {"mode": "sixty in a row", "recordings": "n", "text_bleu": "text BLEU", "ratio": "of that one by one"}
NOTHING = {"kind": "what", "recordings": "n", "wordy": "leads to words %", "words": "words each"}
UNITS = {"set": "reference units, resynthesised", "recordings": "n", "asr_bleu": "ASR-BLEU", "wer": "WER %"}
TITLES = {
    "quality": "(a) to (d): voices", "losses": "(e): noise and lines, test sentences", "rows": "(f): in a row",
    "nothing": "(g): not speech of the language", "units": "The vocoder", "early": "CTC heads that write early",
}  # fmt: skip
TABLES = {
    "quality": QUALITY, "losses": LOSSES, "rows": ROWS, "nothing": NOTHING, "units": UNITS, "early": early.COLUMNS,
}  # fmt: skip
LEGEND = (
    "In brackets: 95 % intervals, bootstrap over recordings (1000 draws; losses and ratios in pairs), Wilson's for "
    "shares. Text BLEU, chrF: of the written translation. ASR-BLEU: whisper-base reads the speech. Refused: nothing "
    "was written, or it was broken off. AL: of the written words, as SimulEval counts. (e) to (g) write without "
    "speaking; (f) is cut into sentences where the edit distance to the references is least."
)


def named_folder(text: str) -> tuple[str, Path]:
    name, given, folder = text.partition("=")
    if not given or not name:
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=FOLDER")
    return name, Path(folder)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=Path, help="folder of the model bundle")
    parser.add_argument("--corpus", required=True, type=Path, help="folder that build_corpus.py made")
    parser.add_argument("--output", required=True, type=Path, help="folder of runs and results; goes on if it exists")
    parser.add_argument("--left-out", type=named_folder, action="append", default=[], metavar="ENGINE=BUNDLE",
                        help="(c): a bundle that was trained without an engine, tested on it")  # fmt: skip
    parser.add_argument("--also", type=named_folder, action="append", default=[], metavar="NAME=FOLDER",
                        help="a further SimulEval folder for the first table")  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"only some of {' '.join(PARTS)} (default: all that the corpus has)")  # fmt: skip
    parser.add_argument("--most", type=int, default=0, help="only so many recordings of each set; 0: all")
    parser.add_argument("--row", type=int, default=60, help="recordings in a row for (f)")
    parser.add_argument("--rows", type=int, default=2, help="how many such rows")
    parser.add_argument("--pause-ms", type=int, default=200, help="pause_ms of (f)")
    parser.add_argument("--segment-ms", type=int, default=320, help="how much source goes in at a time")
    parser.add_argument("--options", default="", metavar="name=value,...", help="session options for every set")
    parser.add_argument("--no-judge", action="store_true", help="no ASR-BLEU and no resynthesis (no whisper)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    return parser.parse_args(argv)


class Evaluation:
    """The tables of one bundle, a method for each."""

    def __init__(self, args):
        self.args, self.lists = args, args.corpus / "simuleval"
        options = read_policy(args.options) if args.options else {}
        judge = None if args.no_judge else Judge(threads=args.jobs)
        cache = args.output / "transcripts.jsonl"
        self.runner = self._runner(args.bundle, options, judge, cache)
        self.others = {name: self._runner(bundle, options, judge, cache) for name, bundle in args.left_out}
        self.test = Folder.read(self.lists / "test", args.most)
        self._clean = None

    def _runner(self, bundle: Path, options: dict, judge, cache: Path) -> Runner:
        bundle_options(load_bundle(bundle), **options)  # says at once what is wrong with either
        name = f"bundle-{bundle_digest(bundle)[:DIGITS]}"
        name += f"-options-{value_digest(options)[:DIGITS]}" if options else ""
        size = f"most{self.args.most}" if self.args.most else "all"
        folder = self.args.output / name / f"{self.args.segment_ms}ms_{size}"
        return Runner(bundle.resolve(), folder, self.args.segment_ms, self.args.jobs, options, judge, cache)

    def wants(self, part: str, *names: str) -> bool:
        """Whether a part is asked for and the corpus has its recordings; says so where it has not."""
        missing = [name for name in names if not (self.args.corpus / name).exists()]
        if part in self.args.parts and missing:
            print(f"note: ({part}) is left out: {self.args.corpus / missing[0]} is not there", file=sys.stderr)
        return part in self.args.parts and not missing

    @property
    def clean(self) -> list:
        """The run of the test recordings, which most tables need."""
        if self._clean is None:
            self._clean = self.runner.translate("test", self.test, speech=True)
        return self._clean

    def quality(self) -> list[dict]:
        rows = []
        subsets = [("a", "training voices", "heard"), ("b", "a voice or setting never heard", "held-out")]
        for part, title, name in subsets:
            if self.wants(part, f"simuleval/test-{name}"):
                rows += self._of_test(part, title, self.lists / f"test-{name}")
        for folder in sorted(self.lists.glob("test-*")) if "a" in self.args.parts else ():
            if folder.name not in [f"test-{name}" for name in ("heard", "held-out", *VARIANTS)]:
                rows += self._of_test("", folder.name.removeprefix("test-"), folder)
        if "c" in self.args.parts:
            for engine, runner in self.others.items():
                title = f"{engine}, by a model trained without it"
                rows.append({"part": "c", **self._set(title, self.lists / f"test-{engine}", runner)})
        if self.wants("d", "simuleval/human"):
            rows.append({"part": "d", **self._set("people", self.lists / "human", self.runner)})
        return rows + [{"part": "", **self._set(name, folder, self.runner)} for name, folder in self.args.also]

    def _of_test(self, part: str, title: str, path: Path) -> list[dict]:
        folder, utterances = voices.chosen(self.test, self.clean, Folder.read(path))
        return [{"part": part, **voices.quality(self.runner, title, folder, utterances)}] if utterances else []

    def _set(self, title: str, path: Path, runner: Runner) -> dict:
        folder = Folder.read(path, self.args.most)
        return voices.quality(runner, title, folder, runner.translate(title.replace(" ", "_"), folder, speech=True))

    def losses(self) -> list[dict]:
        if not self.wants("e", *(f"simuleval/test-{name}" for name in VARIANTS)):
            return []
        folders = {name: Folder.read(self.lists / f"test-{name}", self.args.most) for name in VARIANTS}
        noisy = {name: (folder, self.runner.translate(name, folder)) for name, folder in folders.items()}
        return voices.losses((self.test, self.clean), noisy)

    def rows(self) -> list[dict]:
        if not self.wants("f"):
            return []
        length = min(self.args.row, len(self.test.wavs))
        count = min(self.args.rows * length, len(self.test.wavs))
        part = Folder(self.test.wavs[:count], self.test.references[:count], [])
        row = voices.write_rows(part, self.runner.output / "rows", length)
        found = []
        for pause_ms in (0, self.args.pause_ms):
            utterances = self.runner.translate(f"rows_pause{pause_ms}", row, pause_ms=pause_ms)
            mode = f"pause_ms {pause_ms}" if pause_ms else "without pause_ms"
            scores = voices.in_a_row(utterances, self.clean[:count], part.references, length)
            found.append({"mode": mode, **scores})
        return found

    def nothing(self) -> list[dict]:
        if not self.wants("g", "not_spanish/test.tsv"):
            return []
        folder, kinds = voices.not_speech(self.args.corpus / "not_spanish" / "test.tsv", self.args.most)
        return voices.words_of_nothing(self.runner.translate("not_spanish", folder), kinds)

    def units(self) -> list[dict]:
        judge = self.runner.judge
        if judge is None or not self.wants("units", "fbank2unit/test.unit"):
            return []
        lines = read_list(self.args.corpus / "fbank2unit" / "test.unit")[: len(self.test.references)]
        folder = self.runner.output / "reference_units"
        heard, references = read_back(self.args.bundle, lines, judge, folder, self.runner.cache), self.test.references
        count = len(heard)
        scores = {"asr_bleu": CorpusBleu(heard, references), "wer": CorpusWer(heard, references)}
        return [{"set": "test", "recordings": count, **{key: bootstrap(count, s) for key, s in scores.items()}}]

    def early(self) -> list[dict]:
        if not self.wants("early"):
            return []
        bundle = load_bundle(self.args.bundle)
        chunk_ms = bundle_options(bundle, **self.runner.options).chunk_ms
        segments = {f"{ms} ms" if ms else "whole": ms // FRAME_MS for ms in dict.fromkeys((320, chunk_ms, 0))}
        return early.measure(bundle, map(read_mono, self.test.wavs[:EARLY_RECORDINGS]), segments)

    def tables(self) -> dict[str, list]:
        return {name: getattr(self, name)() for name in TABLES}


def report(tables: dict, facts: dict) -> str:
    """All tables as markdown, with the command and the commit that made them."""
    lines = []
    for name, rows in tables.items():
        if rows:
            used = {key: title for key, title in TABLES[name].items() if any(key in row for row in rows)}
            shown = [{key: str(value) if key in row else None for key, value in row.items()} for row in _shown(rows)]
            lines += [f"### {TITLES[name]}", "", markdown_table(shown, used), ""]
    lines += [LEGEND, "", f"{facts['date']}, commit {facts['commit']}, bundle {facts['bundle'][:DIGITS]}:", ""]
    return "\n".join([*lines, "    python " + shlex.join(["scripts/evaluate_voices.py", *facts["command"]])])


def _shown(rows: list[dict]) -> list[dict]:
    """Rows whose plain numbers are rounded as intervals are."""
    return [{key: f"{v:.1f}" if isinstance(v, float) else v for key, v in row.items() if v is not None} for row in rows]


def main(argv=None) -> int:
    args = parse_args(argv)
    logging.disable(logging.INFO)  # fairseq turns on everybody's
    command = list(sys.argv[1:] if argv is None else argv)
    facts = {"command": command, "commit": commit(ROOT), "date": str(datetime.date.today())}
    try:
        evaluation = Evaluation(args)
        tables = evaluation.tables()
        facts["bundle"] = bundle_digest(args.bundle)
        text = report(tables, facts)
        flat = {name: [voices.flat(row) for row in rows] for name, rows in tables.items()}
        for folder in (evaluation.runner.output, args.output):
            write_json(folder / "voices.json", {**facts, "tables": flat})
            write_atomically(folder / "voices.md", text + "\n")
    except (SimulError, JudgeError, ConfigError, BundleError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
