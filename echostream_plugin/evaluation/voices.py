"""What a model makes of voices: known and unknown ones, an engine that it never heard, people, noise, recordings in a
row, and what is no speech of its language. One function for each part of the table; a row is a dict of plain values and
`Interval`s."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.data.tables import file_of_table, read_table
from echostream_plugin.evaluation.boundaries import spoken_stream
from echostream_plugin.evaluation.claim import SimulError
from echostream_plugin.evaluation.intervals import (
    CorpusBleu,
    CorpusChrf,
    CorpusWer,
    Interval,
    bootstrap,
    mean,
    share,
)
from echostream_plugin.evaluation.latency import text_metrics
from echostream_plugin.evaluation.lists import Folder
from echostream_plugin.evaluation.normalize import normalize
from echostream_plugin.evaluation.offline import translate_recordings
from echostream_plugin.evaluation.simul import Utterance
from echostream_plugin.inference.audio import read_mono

GAPS_MS = (600, 1200)  # of silence after each recording of a row
CLEAN, VARIANTS = "clean", ("noise20", "noise10", "noise5", "telephone")


@dataclass
class Runner:
    """Translates folders with one bundle, each kept under a name in `output`.

    options: `SessionOptions` in place of the bundle's; asr: a `ScoringASR`, None: nothing is spoken."""

    bundle: Path
    output: Path
    push_ms: int = 320
    jobs: int = 1
    options: dict = field(default_factory=dict)
    asr: object = None
    cache: Path | None = None

    def translate(self, name: str, folder: Folder, speech: bool = False, **options) -> list[Utterance]:
        """The utterances of a folder; speech: with speech too; options: further session options."""
        options = {**self.options, "speech": speech and self.asr is not None, **options}
        output = self.output / (f"{name}_spoken" if options["speech"] else name)
        return translate_recordings(
            folder.wavs, folder.references, output, self.bundle, self.push_ms, self.jobs, options, name
        )

    def transcripts(self, utterances: list, name: str) -> list[str]:
        """What the scoring ASR writes of the translated speech."""
        wavs = [utterance.speech.prediction or None for utterance in utterances]
        return self.asr.transcribe_all(wavs, cache=self.cache, progress=f"scoring ASR, {name}")


def quality(runner: Runner, name: str, folder: Folder, utterances: list, spoken: bool = True) -> dict:
    """Scores of a run with their intervals, over its utterances."""
    count, references = len(utterances), folder.references
    texts = [utterance.translation_text for utterance in utterances]
    row = {"set": name, "recordings": count, "text_bleu": bootstrap(count, CorpusBleu(texts, references))}
    row["chrf"] = bootstrap(count, CorpusChrf(texts, references))
    if runner.asr is not None and spoken:
        row["asr_bleu"] = bootstrap(count, CorpusBleu(runner.transcripts(utterances, name), references))
    if any(folder.sources):
        written = [utterance.transcript_text for utterance in utterances]
        row["wer"] = bootstrap(count, CorpusWer(written, folder.sources))
    row["exact"] = share(sum(map(same_words, texts, references)), count)
    row["refused"] = share(sum(map(refused, utterances)), count)
    return row | average_lagging(utterances)


def average_lagging(utterances: list) -> dict:
    """AL in ms of what was written, as SimulEval counts, with its interval; nothing where nothing was written."""
    lags = [text_metrics(u.written)["AL"] for u in utterances if u.written.delays]
    return {"AL": bootstrap(len(lags), mean(lags))} if lags else {}


def same_words(text: str, reference: str) -> bool:
    """Are they the same, case, punctuation and the spelling of numbers aside?"""
    return normalize(text) == normalize(reference)


def refused(utterance: Utterance) -> bool:
    """Was nothing written, or not all of it?"""
    return not utterance.translation_text or bool(utterance.unsure)


def chosen(folder: Folder, utterances: list, among: Folder) -> tuple[Folder, list]:
    """The part of a folder and its run whose recordings `among` names too, by file name."""
    names = {wav.name for wav in among.wavs}
    places = [place for place, wav in enumerate(folder.wavs) if wav.name in names]
    sources = [folder.sources[place] for place in places] if folder.sources else []
    part = Folder([folder.wavs[p] for p in places], [folder.references[p] for p in places], sources)
    return part, [utterances[place] for place in places]


# ------------------------------------------------------------------------------------------------------ noise and lines


def losses(clean: tuple, noisy: dict) -> list[dict]:
    """Text BLEU under each condition, and what of it is lost, in pairs of the same recordings.

    clean: (Folder, utterances); noisy: condition -> (Folder, utterances)."""
    rows = []
    for name, (folder, utterances) in {CLEAN: clean, **noisy}.items():
        first, run = chosen(*clean, among=folder)
        folder, utterances = chosen(folder, utterances, among=first)
        if not run:
            raise SimulError(f"{name}: none of its recordings has the file name of a clean one")
        scores = [CorpusBleu([u.translation_text for u in side], folder.references) for side in (run, utterances)]
        count = len(utterances)
        row = {"condition": name, "recordings": count, "text_bleu": bootstrap(count, scores[1])}
        if name != CLEAN:
            row["lost"] = bootstrap(count, lambda drawn, scores=scores: scores[0](drawn) - scores[1](drawn))
        rows.append(row | {"refused": share(sum(map(refused, utterances)), count)})
    return rows


# ----------------------------------------------------------------------------------------------------------- in a row


def write_rows(folder: Folder, output: Path, length: int) -> Folder:
    """Recordings in rows of `length`, with silence after each, as <output>/row<n>.wav; a last, shorter row counts only
    if it is the only one."""
    output.mkdir(parents=True, exist_ok=True)
    starts = range(0, max(1, len(folder.wavs) - length + 1), length)
    wavs, references = [], []
    for start in starts:
        recordings = [read_mono(wav) for wav in folder.wavs[start : start + length]]
        stream = spoken_stream(recordings, GAPS_MS, np.random.default_rng(start))
        wavs.append(output / f"row{start // length}.wav")
        soundfile.write(wavs[-1], stream.samples, SAMPLE_RATE, subtype="PCM_16")  # float ones hold the time
        references.append(" ".join(folder.references[start : start + length]))
    return Folder(wavs, references)


def in_a_row(rows: list, single: list, references: list, length: int) -> dict:
    """Text BLEU of recordings that were translated in rows, and its ratio to that of the same ones by themselves.

    rows: utterances of `write_rows`; single: utterances of the recordings; references: of them."""
    texts = []
    for number, row in enumerate(rows):
        of_row = references[number * length : (number + 1) * length]
        texts += divided(normalize(row.translation_text), [normalize(reference) for reference in of_row])
    count = len(texts)
    together = CorpusBleu(texts, references[:count])
    alone = CorpusBleu([utterance.translation_text for utterance in single[:count]], references[:count])
    ratio = bootstrap(count, lambda drawn: together(drawn) / max(alone(drawn), 1e-9))
    return {"recordings": count, "text_bleu": bootstrap(count, together), "ratio": ratio}


def divided(text: str, references: list[str]) -> list[str]:
    """A text of many sentences cut where the edit distance to the references in a row is least (E. Matusov et al.,
    "Evaluating Machine Translation Output with Automatic Sentence Segmentation", IWSLT 2005): a part for each."""
    import jiwer

    words, wanted = text.split(), " ".join(references).split()
    if not words or not wanted:
        return [text if number == 0 else "" for number in range(len(references))]
    ends = np.cumsum([len(reference.split()) for reference in references])
    place = np.zeros(len(wanted) + 1, dtype=int)  # how many words of the text belong to so many of the references
    for chunk in jiwer.process_words(" ".join(wanted), " ".join(words)).alignments[0]:
        size = chunk.ref_end_idx - chunk.ref_start_idx
        steps = np.linspace(chunk.hyp_start_idx, chunk.hyp_end_idx, size + 1).round().astype(int)
        place[chunk.ref_start_idx + 1 : chunk.ref_end_idx + 1] = steps[1:]
        if not size:  # words too many belong to the sentence before
            place[chunk.ref_start_idx] = chunk.hyp_end_idx
    place[-1] = len(words)
    cuts = [0, *place[ends]]
    return [" ".join(words[first:last]) for first, last in zip(cuts, cuts[1:], strict=False)]


# ------------------------------------------------------------------------------------------------------- not understood


def not_speech(table: Path, most: int = 0) -> tuple[Folder, list[str]]:
    """The recordings of a table with the columns `kind` and `wav`, and their kinds; at most `most` of each, 0: all."""
    rows, taken = [], {}
    for row in read_table(table, ("kind", "wav")):
        taken[row["kind"]] = taken.get(row["kind"], 0) + 1
        if not most or taken[row["kind"]] <= most:
            rows.append(row)
    wavs = [file_of_table(table, row["wav"]) for row in rows]
    return Folder(wavs, [""] * len(wavs)), [row["kind"] for row in rows]


def words_of_nothing(utterances: list, kinds: list[str]) -> list[dict]:
    """How many recordings of each kind, and of all, led to any word."""
    rows = []
    for kind in (*dict.fromkeys(kinds), "all"):
        of_kind = [u for u, its in zip(utterances, kinds, strict=True) if kind in (its, "all")]
        written = [len(re.findall(r"\w+", utterance.translation_text)) for utterance in of_kind]
        spoke = share(sum(map(bool, written)), len(of_kind))
        rows.append({"kind": kind, "recordings": len(of_kind), "wordy": spoke, "words": float(np.mean(written or [0]))})
    return rows


def flat(row: dict) -> dict:
    """A row as json has it: intervals as [value, low, high]."""
    return {
        key: [round(item, 3) for item in (value.value, value.low, value.high)] if isinstance(value, Interval) else value
        for key, value in row.items()
    }
