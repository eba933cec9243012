"""The tables of an evaluation on voices (`voices`), and their report."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from echostream_plugin.constants import FRAME_MS
from echostream_plugin.evaluation import early, voices
from echostream_plugin.evaluation.intervals import CorpusBleu, CorpusWer, bootstrap
from echostream_plugin.evaluation.lists import Folder, read_list
from echostream_plugin.evaluation.resynthesis import read_back
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.evaluation.voices import VARIANTS, Runner
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.digest import DIGITS, bundle_digest, value_digest
from echostream_plugin.inference.options import bundle_options

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
    "shares. Text BLEU, chrF: of the written translation. ASR-BLEU: whisper-base transcribes the speech. Refused: "
    "nothing was written, or it was broken off. AL: of the written words, as SimulEval counts. (e) to (g) write "
    "without speaking; (f) is cut into sentences where the edit distance to the references is least."
)


@dataclass(frozen=True)
class Asked:
    """What is evaluated, and how: the flags of scripts/evaluate_voices.py, which have help texts.

    left_out, also: pairs of a name and a folder; options: session options by name."""

    bundle: Path
    corpus: Path
    output: Path
    left_out: list
    also: list
    parts: tuple
    most: int
    row: int
    rows: int
    pause_ms: int
    segment_ms: int
    options: dict
    jobs: int


class VoicesEvaluation:
    """The tables of one bundle, a method for each. Raises ConfigError, BundleError or SimulError for what is asked."""

    def __init__(self, asked: Asked, asr):
        """asr: a `ScoringASR`, None: no speech is scored."""
        self.asked, self.lists = asked, asked.corpus / "simuleval"
        self.runner = self._runner(asked.bundle, asr)
        self.others = {name: self._runner(bundle, asr) for name, bundle in asked.left_out}
        self.test = Folder.read(self.lists / "test", asked.most)
        self._clean = None

    def _runner(self, bundle: Path, asr) -> Runner:
        options = self.asked.options
        bundle_options(load_bundle(bundle), **options)  # says at once what is wrong with either
        name = f"bundle-{bundle_digest(bundle)[:DIGITS]}"
        name += f"-options-{value_digest(options)[:DIGITS]}" if options else ""
        size = f"most{self.asked.most}" if self.asked.most else "all"
        folder = self.asked.output / name / f"{self.asked.segment_ms}ms_{size}"
        cache = self.asked.output / "transcripts.jsonl"
        return Runner(bundle.resolve(), folder, self.asked.segment_ms, self.asked.jobs, options, asr, cache)

    def wants(self, part: str, *names: str) -> bool:
        """Whether a part is asked for and the corpus has its recordings; says so where it has not."""
        missing = [name for name in names if not (self.asked.corpus / name).exists()]
        if part in self.asked.parts and missing:
            print(f"note: ({part}) is left out: {self.asked.corpus / missing[0]} is not there", file=sys.stderr)
        return part in self.asked.parts and not missing

    @property
    def clean(self) -> list:
        """The run of the test recordings, which most tables need."""
        if self._clean is None:
            self._clean = self.runner.translate("test", self.test, speech=True)
        return self._clean

    def quality(self) -> list[dict]:
        """Parts (a) to (d): voices."""
        rows = []
        subsets = [("a", "training voices", "heard"), ("b", "a voice or setting never heard", "held-out")]
        for part, title, name in subsets:
            if self.wants(part, f"simuleval/test-{name}"):
                rows += self._of_test(part, title, self.lists / f"test-{name}")
        for folder in sorted(self.lists.glob("test-*")) if "a" in self.asked.parts else ():
            if folder.name not in [f"test-{name}" for name in ("heard", "held-out", *VARIANTS)]:
                rows += self._of_test("", folder.name.removeprefix("test-"), folder)
        if "c" in self.asked.parts:
            for engine, runner in self.others.items():
                title = f"{engine}, by a model trained without it"
                rows.append({"part": "c", **self._set(title, self.lists / f"test-{engine}", runner)})
        if self.wants("d", "simuleval/human"):
            rows.append({"part": "d", **self._set("people", self.lists / "human", self.runner)})
        if "d" in self.asked.parts and (self.lists / "stranger").is_dir():  # not every system has these recordings
            rows.append({"part": "d'", **self._set("a person never heard", self.lists / "stranger", self.runner)})
        return rows + [{"part": "", **self._set(name, folder, self.runner)} for name, folder in self.asked.also]

    def _of_test(self, part: str, title: str, path: Path) -> list[dict]:
        folder, utterances = voices.chosen(self.test, self.clean, Folder.read(path))
        return [{"part": part, **voices.quality(self.runner, title, folder, utterances)}] if utterances else []

    def _set(self, title: str, path: Path, runner: Runner) -> dict:
        folder = Folder.read(path, self.asked.most)
        return voices.quality(runner, title, folder, runner.translate(title.replace(" ", "_"), folder, speech=True))

    def losses(self) -> list[dict]:
        """Part (e): noise and telephone lines, beside the clean recordings."""
        if not self.wants("e", *(f"simuleval/test-{name}" for name in VARIANTS)):
            return []
        folders = {name: Folder.read(self.lists / f"test-{name}", self.asked.most) for name in VARIANTS}
        noisy = {name: (folder, self.runner.translate(name, folder)) for name, folder in folders.items()}
        return voices.losses((self.test, self.clean), noisy)

    def rows(self) -> list[dict]:
        """Part (f): recordings in a row, with and without `pause_ms`."""
        if not self.wants("f"):
            return []
        length = min(self.asked.row, len(self.test.wavs))
        count = min(self.asked.rows * length, len(self.test.wavs))
        part = Folder(self.test.wavs[:count], self.test.references[:count])
        row = voices.write_rows(part, self.runner.output / "rows", length)
        found = []
        for pause_ms in (0, self.asked.pause_ms):
            utterances = self.runner.translate(f"rows_pause{pause_ms}", row, pause_ms=pause_ms)
            mode = f"pause_ms {pause_ms}" if pause_ms else "without pause_ms"
            scores = voices.in_a_row(utterances, self.clean[:count], part.references, length)
            found.append({"mode": mode, **scores})
        return found

    def nothing(self) -> list[dict]:
        """Part (g): what is no speech of the language."""
        if not self.wants("g", "not_spanish/test.tsv"):
            return []
        folder, kinds = voices.not_speech(self.asked.corpus / "not_spanish" / "test.tsv", self.asked.most)
        return voices.words_of_nothing(self.runner.translate("not_spanish", folder), kinds)

    def units(self) -> list[dict]:
        """The speech of reference units, as the scoring ASR transcribes it."""
        asr = self.runner.asr
        if asr is None or not self.wants("units", "fbank2unit/test.unit"):
            return []
        lines = read_list(self.asked.corpus / "fbank2unit" / "test.unit")[: len(self.test.references)]
        folder = self.runner.output / "reference_units"
        transcripts = read_back(self.asked.bundle, lines, asr, folder, self.runner.cache)
        count, references = len(transcripts), self.test.references
        scores = {"asr_bleu": CorpusBleu(transcripts, references), "wer": CorpusWer(transcripts, references)}
        return [{"set": "test", "recordings": count, **{key: bootstrap(count, s) for key, s in scores.items()}}]

    def early(self) -> list[dict]:
        """How early the CTC heads write, see `early`."""
        if not self.wants("early"):
            return []
        bundle = load_bundle(self.asked.bundle)
        chunk_ms = bundle_options(bundle, **self.runner.options).chunk_ms
        segments = {f"{ms} ms" if ms else "whole": ms // FRAME_MS for ms in dict.fromkeys((320, chunk_ms, 0))}
        return early.measure(bundle, map(read_mono, self.test.wavs[:EARLY_RECORDINGS]), segments)

    def tables(self) -> dict[str, list]:
        """All tables that are asked for, by name."""
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
