"""Numbers and names that everything here agrees on; this file imports nothing."""

SAMPLE_RATE = 16000  # of what models hear, in samples a second
MIN_RATE, MAX_RATE = 4000, 384000  # of audio that is taken and resampled
FEATURE_MS, FRAME_MS, UNIT_MS = 10, 40, 20  # a frame of features, of an encoder, a unit of speech
FEATURES_PER_FRAME = FRAME_MS // FEATURE_MS
MEL_BINS, WINDOW_SAMPLES, HOP_SAMPLES = 80, 400, SAMPLE_RATE * FEATURE_MS // 1000  # of features as they are stored
UNIT_SAMPLES = SAMPLE_RATE * UNIT_MS // 1000

# fairseq's dictionaries begin with these, and SentencePiece models that are trained here; <s> is the CTC heads' blank
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
BLANK, PAD, EOS, UNK = range(len(SPECIALS))
WORD_START = "\u2581"  # how SentencePiece marks the first subword of a word
