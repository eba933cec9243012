"""What this recipe's text side has of its own: words given to SentencePiece once more, and milder yamls."""

from echostream_plugin.data import pieces

SPECAUGMENT = {  # mild: the voices are few and clean
    "freq_mask_F": 15, "freq_mask_N": 1, "time_mask_N": 1, "time_mask_T": 20, "time_mask_p": 0.3, "time_wrap_W": 0,
}  # fmt: skip
DECODER = {"decoder_embed_dim": 256, "decoder_ffn_embed_dim": 512, "decoder_attention_heads": 4}


def train_pieces(folder, name, sentences, size):
    """Trains a unigram SentencePiece model on normalised sentences; returns the processor.

    Each word is given once more by itself: SentencePiece's candidates are the strings that are followed by different
    things, and in a small corpus a word inside sentences is always followed by a space ("would" was "w ou ld").
    """
    words = sorted({word for sentence in sentences for word in sentence.split()})
    return pieces.train_pieces(folder, name, [*sentences, *words], size)


def write_configs(data_folder, source_folder, target_folder, name):
    """The two yamls of the data folder; their paths are relative to it."""
    dictionaries = (folder / f"{name}.txt" for folder in (source_folder, target_folder))
    pieces.write_configs(data_folder, *dictionaries, specaugment=SPECAUGMENT, decoder=DECODER)
