"""What fairseq and SimulEval read of this corpus: subwords, manifests, yamls, lists of recordings."""

from augment import VARIANTS
from source_audio import variant_wav
from speakers import HEARD, HELD_OUT

from echostream_plugin.data import subwords
from echostream_plugin.data.manifests import manifest_row
from echostream_plugin.data.subwords import write_task_table
from echostream_plugin.data.tables import MANIFEST_COLUMNS, write_lines, write_table
from echostream_plugin.data.waveforms import frames_of
from echostream_plugin.inference.words import normalise

COLUMNS = {"src": "source", "tgt": "target"}  # of a table of texts, by side
SUBWORDS = "spm_bpe_es"  # as StreamSpeech names them: for the source language on both sides

SPECAUGMENT = {  # mild: the voices are few and clean
    "freq_mask_F": 15, "freq_mask_N": 1, "time_mask_N": 1, "time_mask_T": 20, "time_mask_p": 0.3, "time_wrap_W": 0,
}  # fmt: skip
DECODER = {"decoder_embed_dim": 256, "decoder_ffn_embed_dim": 512, "decoder_attention_heads": 4}


def train_subwords(folder, name, sentences, size):
    """Trains a BPE model on normalised sentences; returns the processor.

    A unigram model of so few and so similar sentences spells frequent words: `▁ d e`, `▁ q u e`, `▁ q u i e r e`, 2.5
    subwords a word where BPE has 1.6, in a thousand of each.
    """
    return subwords.train_subwords(folder, name, sentences, size, kind="bpe")


def write_configs(data_folder, source_folder, target_folder, name):
    """The two yamls of the data folder; their paths are relative to it."""
    dictionaries = (folder / f"{name}.txt" for folder in (source_folder, target_folder))
    subwords.write_configs(data_folder, *dictionaries, specaugment=SPECAUGMENT, decoder=DECODER)


# --------------------------------------------------------------------------------------------------------- manifests


def make_subwords(out, train, sizes, bundle=None):
    """{"src", "tgt": the processor of its subwords}, their files in {src,tgt}_unigram/.

    train: the rows that they learn from; sizes: how many, of both sides; bundle: a folder whose models are taken
    instead, so that a model of this corpus can begin with that bundle's heads and decoders. Others than the last run's
    are said: what was trained on the folder no longer fits its dictionaries.
    """
    made = {}
    for side, column in COLUMNS.items():
        folder = out / f"{side}_unigram"
        model = folder / f"{SUBWORDS}.model"
        before = model.read_bytes() if model.is_file() else None
        if bundle is None:
            sentences = [normalise(row[column]) for row in train]
            made[side] = train_subwords(folder, SUBWORDS, sentences, sizes[side])
        else:
            made[side] = subwords.store_subwords(folder, SUBWORDS, (bundle / f"{column}.spm.model").read_bytes())
        if before not in (None, model.read_bytes()):
            print(f"note: {model}: other subwords than before; what was trained on them does not fit this folder now")
    return made


def check_subwords(bundle):
    """Raise DataError for a bundle without two readable SentencePiece models: better now than after the speaking."""
    for column in COLUMNS.values():
        subwords.load_subwords(bundle / f"{column}.spm.model")


def write_splits(out, spoken, models, units):
    """fbank2unit/ and the subword tables beside it.

    spoken: {split: rows}, rows with `of` where they are copies; models: what `make_subwords` returned; units: {id:
    units at 50 Hz}.
    """
    for split, rows in spoken.items():
        for side, column in COLUMNS.items():
            write_task_table(out / f"{side}_unigram" / f"{split}.tsv", rows, column, models[side])
        data = out / "fbank2unit"
        manifest = [_manifest_row(out, row, units[row.get("of", row["id"])]) for row in rows]
        write_table(data / f"{split}.tsv", MANIFEST_COLUMNS, manifest)
        for kind, column in (("unit", "tgt_audio"), ("src", "src_text"), ("txt", "tgt_text")):
            write_lines(data / f"{split}.{kind}", (row[column] for row in manifest))
    write_configs(out / "fbank2unit", out / "src_unigram", out / "tgt_unigram", SUBWORDS)


def _manifest_row(out, row, units):
    texts = {"id": row["id"], "src_text": row["source"], "tgt_text": normalise(row["target"])}
    # features are computed when a recording is read: stored ones are nine times as large
    return manifest_row(texts, f"../{row['wav']}", frames_of(out / row["wav"]), units)


def write_lists(out, splits):
    """simuleval/<name>/{wav_list,target,src}.txt of every split, its variants, its voices heard or not, its engines."""
    for split, rows in splits.items():
        lists = {split: [(row, row["wav"]) for row in rows]}
        if split != "dev":
            for name in VARIANTS:
                lists[f"{split}-{name}"] = [(row, variant_wav(row, name)) for row in rows]
        if split == "test":
            for name, heard in (("heard", HEARD), ("held-out", HELD_OUT)):
                lists[f"{split}-{name}"] = [(row, row["wav"]) for row in rows if row["heard"] == heard]
            for engine in sorted({row["engine"] for row in rows}):
                lists[f"{split}-{engine}"] = [(row, row["wav"]) for row in rows if row["engine"] == engine]
        for name, listed in lists.items():
            folder = out / "simuleval" / name
            write_lines(folder / "wav_list.txt", (str((out / wav).resolve()) for _, wav in listed))
            write_lines(folder / "target.txt", (normalise(row["target"]) for row, _ in listed))
            write_lines(folder / "src.txt", (row["source"] for row, _ in listed))
