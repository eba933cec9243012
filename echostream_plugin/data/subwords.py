"""SentencePiece models and fairseq dictionaries of them, multitask tables, and the two yamls of a data folder."""

import io
import os
from collections import Counter
from pathlib import Path

import sentencepiece
import yaml

from echostream_plugin.constants import BLANK, EOS, PAD, SPECIALS, UNK
from echostream_plugin.data import DataError
from echostream_plugin.data.tables import write_lines, write_table
from echostream_plugin.files import whole_file, write_text
from echostream_plugin.inference.words import normalise

SPECAUGMENT = {  # fairseq's "lb" policy, StreamSpeech's
    "freq_mask_F": 27, "freq_mask_N": 1, "time_mask_N": 1, "time_mask_T": 100, "time_mask_p": 1.0, "time_wrap_W": 0,
}  # fmt: skip
DECODER = {"decoder_embed_dim": 512, "decoder_ffn_embed_dim": 2048, "decoder_attention_heads": 8}


def train_subwords(
    folder, name: str, sentences, size: int, threads: int = 1, coverage: float = 1.0, kind: str = "unigram"
):
    """Train a model of `size` subwords on normalised sentences; returns the processor. Raises DataError where the
    characters alone are more than that; coverage: part of the text whose characters must all be subwords; kind:
    SentencePiece's 'unigram', as in StreamSpeech, or 'bpe', whose frequent words stay whole in a small corpus too.

    Leaves ``<name>.model``, ``<name>.vocab`` and ``<name>.txt``: fairseq's dictionary, subwords in the model's order.
    """
    folder, sentences = Path(folder), list(sentences)
    alphabet = alphabet_size(sentences, coverage)
    if alphabet + len(SPECIALS) > size:
        raise DataError(
            f"{folder / name}.model: the text has an alphabet of {alphabet} characters, which do not fit in {size} "
            f"subwords with {len(SPECIALS)} special ones; ask for --subwords of {alphabet + len(SPECIALS)} at least, "
            "twice that is useful"
        )
    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=buffer,
            model_type=kind,
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=coverage,
            num_threads=threads,
            bos_id=BLANK,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            minloglevel=2,
        )
    except RuntimeError as error:
        message = f"{folder / name}.model: SentencePiece cannot make {size} subwords of this text: {error}"
        raise DataError(message) from error
    return store_subwords(folder, name, buffer.getvalue())


def store_subwords(folder, name: str, proto: bytes):
    """Write a SentencePiece model down as the three files that `train_subwords` leaves; returns the processor."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / f"{name}.model") as partial:
        partial.write_bytes(proto)
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    numbers = range(processor.get_piece_size())
    write_lines(folder / f"{name}.vocab", (f"{processor.id_to_piece(i)}\t{processor.get_score(i):g}" for i in numbers))
    write_lines(folder / f"{name}.txt", (f"{processor.id_to_piece(i)} 1" for i in numbers if i >= len(SPECIALS)))
    return processor


def alphabet_size(sentences: list[str], coverage: float) -> int:
    """How many characters, the most frequent first, make so much of a text; the mark of a word's start is one."""
    counts = Counter("▁")
    for sentence in sentences:
        counts.update(sentence.replace(" ", "▁"))
    total, covered, size = sum(counts.values()), 0, 0
    for _, count in counts.most_common():
        if covered >= coverage * total:
            break
        covered, size = covered + count, size + 1
    return size


def load_subwords(model):
    """The processor of a model file that is there."""
    if not Path(model).is_file():
        raise DataError(f"{model}: no such SentencePiece model")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except RuntimeError as error:
        raise DataError(f"{model}: not a readable SentencePiece model ({error})") from error


def write_task_table(path, rows, column: str, processor) -> None:
    """``id`` and ``tgt_text`` (subwords joined by spaces) of a multitask manifest; `column` holds the raw text."""
    encoded = (processor.encode(normalise(row[column]), out_type=str) for row in rows)
    table = [{"id": row["id"], "tgt_text": " ".join(subwords)} for row, subwords in zip(rows, encoded, strict=True)]
    write_table(path, ("id", "tgt_text"), table)


def write_configs(
    data_folder, source_dictionary, target_dictionary, vocoder=None, specaugment=SPECAUGMENT, decoder=DECODER
) -> None:
    """config_gcmvn.yaml and config_mtl_asr_st_ctcst.yaml, their values by default StreamSpeech's, their paths relative.

    source_dictionary, target_dictionary: dictionary files, beside which the multitask tables lie; vocoder: (checkpoint,
    config json) or None; decoder: the `decoder_args` besides the number of layers.
    """
    folder = Path(data_folder)

    def relative(path) -> str:
        return Path(os.path.relpath(path, folder)).as_posix()

    data = {
        "global_cmvn": {"stats_npz_path": relative(folder.parent / "gcmvn.npz")},
        "input_channels": 1,
        "input_feat_per_channel": 80,
        "specaugment": specaugment,
        "transforms": {"*": ["global_cmvn"], "_train": ["global_cmvn", "specaugment"]},
    }
    if vocoder is not None:
        checkpoint, config = (str(Path(path).resolve()) for path in vocoder)
        data["vocoder"] = {"type": "code_hifigan", "checkpoint": checkpoint, "config": config}
    write_text(folder / "config_gcmvn.yaml", yaml.safe_dump(data, sort_keys=False))
    tasks = {
        "target_unigram": _task("transformer", relative(target_dictionary), 8.0, decoder),
        "source_unigram": _task("ctc", relative(source_dictionary), 4.0, decoder),
        "ctc_target_unigram": _task("ctc", relative(target_dictionary), 4.0, decoder),
    }
    write_text(folder / "config_mtl_asr_st_ctcst.yaml", yaml.safe_dump(tasks, sort_keys=False))


def _task(kind: str, dictionary: str, weight: float, decoder: dict) -> dict:
    return {
        "decoder_type": kind,
        "dict": dictionary,
        "data": Path(dictionary).parent.as_posix(),
        "loss_weight": weight,
        "rdrop_alpha": 0.0,
        "decoder_args": {"decoder_layers": 4 if kind == "transformer" else 0, **decoder},
        "label_smoothing": 0.1,
    }
