"""The text side of a StreamSpeech-format corpus: SentencePiece models, dictionaries, manifests and yamls."""

import csv
import io
import os
import re
from pathlib import Path

import sentencepiece
import yaml

SPECIALS = 4  # <s> <pad> </s> <unk>, the same numbers in SentencePiece and in fairseq
COLUMNS = ("id", "src_audio", "src_n_frames", "src_text", "tgt_text", "tgt_audio", "tgt_n_frames")


def normalise(text):
    """What the model reads and writes: lower case, no punctuation (StreamSpeech's rule), one space between words."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def write_text(path, text):
    """Written whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_table(path, columns, rows):
    """A fairseq manifest: tab separated, no quoting; rows are dicts."""
    for row in rows:
        for column in columns:
            if re.search(r"[\t\n\r\\]", str(row[column])):
                raise ValueError(f"{path}: {row['id']}: column {column} holds a tab, line break or backslash")
    lines = ["\t".join(columns)] + ["\t".join(str(row[column]) for column in columns) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def read_table(path):
    """Rows as dicts, in order."""
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))


def train_pieces(folder, name, sentences, size):
    """Trains a unigram SentencePiece model on normalised sentences; returns the processor.

    Leaves `<name>.model` and `<name>.txt`, fairseq's dictionary with the pieces in SentencePiece's order, so that a
    piece has the same number in both.

    Each word is given once more by itself: SentencePiece's candidates are the strings that are followed by different
    things, and in a small corpus a word inside sentences is always followed by a space ("would" was "w ou ld").
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for sentence in sentences for word in sentence.split()})
    buffer = io.BytesIO()  # no file names, which a model file would keep
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*sentences, *words]),
        model_writer=buffer,
        model_type="unigram",
        vocab_size=size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        num_threads=1,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    partial = folder / f"{name}.model.part"
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, folder / f"{name}.model")
    processor = sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())
    pieces = [processor.id_to_piece(i) for i in range(SPECIALS, processor.get_piece_size())]
    write_text(folder / f"{name}.txt", "".join(f"{piece} 1\n" for piece in pieces))
    return processor


def write_configs(data_folder, source_folder, target_folder, name):
    """The two yamls of the data folder; their paths are relative to it."""
    data_folder = Path(data_folder)
    config = {
        "global_cmvn": {"stats_npz_path": "../gcmvn.npz"},
        "input_channels": 1,
        "input_feat_per_channel": 80,
        # mild: the voices are few and clean
        "specaugment": {
            "freq_mask_F": 15,
            "freq_mask_N": 1,
            "time_mask_N": 1,
            "time_mask_T": 20,
            "time_mask_p": 0.3,
            "time_wrap_W": 0,
        },
        "transforms": {"*": ["global_cmvn"], "_train": ["global_cmvn", "specaugment"]},
    }
    write_text(data_folder / "config_gcmvn.yaml", yaml.safe_dump(config, sort_keys=False))
    tasks = {
        "target_unigram": ("transformer", target_folder, 8.0),
        "source_unigram": ("ctc", source_folder, 4.0),
        "ctc_target_unigram": ("ctc", target_folder, 4.0),
    }
    multitask = {
        task: {
            "decoder_type": kind,
            "dict": f"../{Path(folder).name}/{name}.txt",
            "data": f"../{Path(folder).name}",
            "loss_weight": weight,
            "rdrop_alpha": 0.0,
            "decoder_args": {
                "decoder_layers": 4 if kind == "transformer" else 0,
                "decoder_embed_dim": 256,
                "decoder_ffn_embed_dim": 512,
                "decoder_attention_heads": 4,
            },
            "label_smoothing": 0.1,
        }
        for task, (kind, folder, weight) in tasks.items()
    }
    write_text(data_folder / "config_mtl_asr_st_ctcst.yaml", yaml.safe_dump(multitask, sort_keys=False))
