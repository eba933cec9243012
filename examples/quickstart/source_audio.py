"""The source side as audio: utterances spoken, their augmented copies, test variants, and audio that is not Spanish."""

import os
from pathlib import Path

import not_spanish
from augment import VARIANTS, augment, variant
from corpus_text import HUMAN_TEST, SPLITS, chain_of
from engines import ENGINES, speak
from languages import make_verses
from speakers import generator, speaker_of
from waves import SAMPLE_RATE, read_wav, write_wav

from echostream_plugin.data.parallel import Workers
from echostream_plugin.data.tables import keyed_lines, read_table, write_table

BABBLE_VOICES = 24
FOREIGN_PER_LANGUAGE = 20  # human recordings of each other language in the set that is not Spanish
_worker = {}  # what a worker process keeps between utterances


def speak_source(job):
    """Write one source recording. job: its path, its row."""
    path, row = job
    write_wav(path, speak(row["source"], speaker_of(row)))


def is_slow(row):
    """Whether a training utterance waits until the quick engines' are there, copies and all."""
    return row["wav"].endswith(".flac") and row["engine"] in ENGINES and ENGINES[row["engine"]].slow


def build_source(out, text, planned, engines, seed, jobs):
    """Everything on the source side: first what trains and tests a model already, then the slow engines' share."""
    spoken = [row for split in SPLITS for row in text[split] if row["engine"] != "human"]
    spoken.sort(key=lambda row: ENGINES[row["engine"]].slow)
    speak_all(out, [row for row in spoken if not is_slow(row)], jobs)
    make_variants(out, text, seed, jobs)
    make_not_spanish(out, text, engines, seed)
    make_verses(out, engines, seed, jobs)
    make_copies(out, [row for row in planned if not is_slow(row)], text, seed, jobs)
    speak_all(out, [row for row in spoken if is_slow(row)], jobs)
    make_copies(out, [row for row in planned if is_slow(row)], text, seed, jobs)


def speak_all(out, rows, jobs):
    """src_wav/ for every utterance that has none yet."""
    (out / "src_wav").mkdir(parents=True, exist_ok=True)
    there = {entry.name for entry in os.scandir(out / "src_wav")}
    work = [(out / row["wav"], row) for row in rows if Path(row["wav"]).name not in there]
    for _ in Workers(jobs).ordered(speak_source, work, "source speech"):
        pass


# ------------------------------------------------------------------------------------------------------------- copies


def babble_wavs(out, text):
    """Recordings of the training split that babble is mixed from, spread over it."""
    rows = [row for row in text["train"] if row["engine"] != "human" and not is_slow(row)]
    rows = rows or [row for row in text["dev"] if row["engine"] != "human"]
    return [out / row["wav"] for row in rows[:: max(1, len(rows) // BABBLE_VOICES)]][:BABBLE_VOICES]


def start_babble(paths):
    """What a worker process keeps: the waves that babble is made of."""
    _worker["babble"] = [read_wav(path) for path in paths]


def make_copy(job):
    """Writes one augmented copy; returns what was drawn for it."""
    source, path, row, seed = job
    wave, told = augment(read_wav(source), generator(seed, row["id"]), _worker["babble"], chain_of(row))
    write_wav(path, wave)
    return told


def make_copies(out, planned, text, seed, jobs):
    """The augmented copies of training utterances; text/augmentation.txt has a line `id|what was drawn` of each."""
    log = out / "text" / "augmentation.txt"
    done = keyed_lines(log)
    rows = [row for row in planned if row["id"] not in done]
    work = [(out / row["from"], out / row["wav"], row, seed) for row in rows]
    told = Workers(jobs).ordered(make_copy, work, "augmented copies", start_babble, (babble_wavs(out, text),))
    with open(log, "a", encoding="utf-8") as file:
        for row, drawn in zip(rows, told, strict=True):
            file.write(f"{row['id']}|{drawn}\n")
            file.flush()


# ----------------------------------------------------------------------------------------------------------- variants


def variant_wav(row, name):
    """Where a test recording's variant lies, relative to the corpus."""
    return f"src_wav/{name}/{row['id']}.wav"


def make_variant(job):
    """Write one noisy version of a recording. job: from, to, name of the variant, id, seed."""
    source, path, name, key, seed = job
    write_wav(path, variant(name, read_wav(source), generator(seed, f"{name} {key}"), _worker["babble"]))


def make_variants(out, text, seed, jobs):
    """Noisy and telephone-band versions of every test recording, human ones too."""
    work = []
    for name in VARIANTS:
        (out / "src_wav" / name).mkdir(parents=True, exist_ok=True)
        for row in (*text["test"], *text[HUMAN_TEST]):
            path = out / variant_wav(row, name)
            if not path.exists():
                work.append((out / row["wav"], path, name, row["id"], seed))
    for _ in Workers(jobs).ordered(make_variant, work, "test variants", start_babble, (babble_wavs(out, text),)):
        pass


# -------------------------------------------------------------------------------------------------------- not Spanish


def make_not_spanish(out, text, engines, seed):
    """not_spanish/{dev,test}/<id>.wav with not_spanish/{dev,test}.tsv: id, kind, what, wav, seconds."""
    babble = None
    for split in not_spanish.SPLITS:
        table = out / "not_spanish" / f"{split}.tsv"
        if table.exists():
            continue
        (out / "not_spanish" / split).mkdir(parents=True, exist_ok=True)
        babble = babble or [read_wav(path) for path in babble_wavs(out, text)]
        foreign = _foreign(read_table(out / "unlabelled" / f"{split}.tsv"))
        wavs = {f"not_{split}_{row['id']}": out / "unlabelled" / row["wav"] for row in foreign}
        rows = []
        for item in not_spanish.items(split, engines, [(row["id"], row["language"]) for row in foreign]):
            wave = read_wav(wavs[item.id]) if item.id in wavs else not_spanish.render(item, seed, babble)
            name = f"{split}/{item.id}.wav"
            write_wav(out / "not_spanish" / name, wave)
            seconds = f"{wave.size / SAMPLE_RATE:.2f}"
            rows.append({"id": item.id, "kind": item.kind, "what": item.what, "wav": name, "seconds": seconds})
        write_table(table, not_spanish.COLUMNS, rows)


def _foreign(rows):
    """As many recordings of each language, spread over its list, that last two seconds at least."""
    chosen = []
    for language in dict.fromkeys(row["language"] for row in rows):
        group = [row for row in rows if row["language"] == language and float(row["seconds"]) >= 2.0]
        chosen += group[:: max(1, len(group) // FOREIGN_PER_LANGUAGE)][:FOREIGN_PER_LANGUAGE]
    return chosen
