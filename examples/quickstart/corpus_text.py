"""The tables of the corpus: who says what in which recording, and which recordings are heard again, changed."""

import re
from pathlib import Path

import human
import stranger
from augment import HUMAN, SYNTHETIC
from speakers import COLUMNS, draw_speaker
from waves import write_wav

from echostream_plugin.data.tables import read_table, write_table

SPLITS = ("train", "dev", "test")
TEXT_COLUMNS = ("id", "source", "target", "wav", *COLUMNS)
PROMPT_COLUMNS = ("id", "split", "source", "target", "seconds")
HUMAN_TEST = "human"  # the split of the human test prompts
HUMAN_TEST_WORDS = 3  # shorter prompts are no sentences; they are in no split


def source_wav(split, name):
    """Where a source recording lies, relative to the corpus: training ones are many, so they are compressed."""
    return f"src_wav/{name}.{'flac' if split == 'train' else 'wav'}"


def write_corpus_text(out, sizes, seed, engines):
    """text/<split>.tsv with TEXT_COLUMNS, human prompts included; returns {split: rows}."""
    tables = {split: out / "text" / f"{split}.tsv" for split in SPLITS}
    if not all(path.exists() for path in tables.values()):
        import grammar

        text = grammar.build_text(sizes["train"], sizes["dev"], sizes["test"], seed)
        prompts = read_table(out / "text" / "prompts.tsv", PROMPT_COLUMNS)
        tested = sentences_in(prompt["source"] for prompt in prompts if prompt["split"] == "test")
        for split, path in tables.items():
            rows = [_spoken_row(split, number, said, seed, engines) for number, said in enumerate(text[split])]
            if split == "train":
                rows = [row for row in rows if not tested & sentences_in([row["source"]])]
                rows += [_prompt_row(prompt) for prompt in prompts if prompt["split"] == "train"]
            write_table(path, TEXT_COLUMNS, rows)
        write_table(out / "text" / f"{HUMAN_TEST}.tsv", TEXT_COLUMNS, _human_test(prompts))
    return {split: read_table(out / "text" / f"{split}.tsv", TEXT_COLUMNS) for split in (*SPLITS, HUMAN_TEST)}


def sentences_in(texts):
    """The sentences of three words and more, for comparison: what human test prompts say, nobody says in training."""
    found = (re.findall(r"\w+", sentence.lower()) for text in texts for sentence in re.split(r"[.?!]", text))
    return {" ".join(words) for words in found if len(words) >= HUMAN_TEST_WORDS}


def _spoken_row(split, number, utterance, seed, engines):
    speaker, heard = draw_speaker(split, number, utterance.id, seed, engines)
    said = {"id": utterance.id, "source": utterance.source, "target": utterance.target, "heard": heard}
    return {**vars(speaker), **said, "wav": source_wav(split, utterance.id)}


def _prompt_row(prompt):
    speaker = {"engine": "human", "voice": human.VOICES["es"], "rate": 1.0, "pitch": 1.0, "warp": 1.0, "level": 0}
    said = {name: prompt[name] for name in ("id", "source", "target")}
    return {**speaker, **said, "heard": "in training", "wav": source_wav(prompt["split"], prompt["id"])}


def _human_test(prompts):
    tested = [prompt for prompt in prompts if prompt["split"] == "test"]
    return [_prompt_row(prompt) for prompt in tested if len(prompt["source"].split()) >= HUMAN_TEST_WORDS]


def plan_copies(train, copies, human_share):
    """Training rows for every augmented copy, with `of`, the recording that it is made from.

    Synthesized utterances have `copies` each; human ones as many more as make them `human_share` of all letters.
    """
    letters = {True: 0, False: 0}
    for row in train:
        letters[row["engine"] == "human"] += len(row["source"])
    wanted = human_share / (1 - human_share) * letters[False] * (1 + copies)
    human_copies = max(copies, round(wanted / letters[True]) - 1) if letters[True] else 0
    planned = []
    for row in train:
        for number in range(1, 1 + (human_copies if row["engine"] == "human" else copies)):
            name = f"{row['id']}_a{number}"
            planned.append({**row, "id": name, "of": row["id"], "from": row["wav"], "wav": source_wav("train", name)})
    return planned


def chain_of(row):
    """How likely which augmentation is for a copy of this row."""
    return HUMAN if row["engine"] == "human" else SYNTHETIC


def prepare_prompts(out, source):
    """Human recordings into src_wav/, unlabelled/ and simuleval/stranger/, and text/prompts.tsv, last; empty where
    there are none.

    source: folder of .deb files or of what is in them; None: apt fetches them; "none": no human recordings.
    """
    table = out / "text" / "prompts.tsv"
    if table.exists():
        return
    table.parent.mkdir(parents=True, exist_ok=True)
    folder = _packages(out, source)
    recordings = None if folder is None else human.read_recordings(folder)
    prompts, dropped = human.parallel_prompts(recordings) if recordings else ([], {})
    rows = []
    for prompt in prompts:
        wave = human.decode_g722(recordings.sounds["es"][prompt.name])
        write_wav(out / source_wav(prompt.split, prompt.id), wave)
        seconds = f"{wave.size / human.SAMPLE_RATE:.2f}"
        rows.append({**vars(prompt), "id": prompt.id, "seconds": seconds})
    human.store_unlabelled(out / "unlabelled", recordings)
    if recordings:
        stranger.write_stranger(out, folder, recordings.texts["en"])
    lines = [{"prompt": name, "why": why} for name, why in sorted(dropped.items())]
    write_table(table.with_name("prompts_left_out.tsv"), ("prompt", "why"), lines)
    write_table(table, PROMPT_COLUMNS, rows)


def _packages(out, source):
    """The folder with the packages of human recordings, None where there are none; source: of `prepare_prompts`."""
    if source is not None:
        return None if source == "none" else Path(source)
    try:
        human.download(out / "debs")
    except human.HumanError as error:
        print(f"note: no human recordings: {error}; the rest is built without them")
        return None
    if why := stranger.download(out / "debs"):
        print(f"note: no {stranger.PACKAGE}: {why}; the evaluation goes without a person who was never heard")
    return out / "debs"
