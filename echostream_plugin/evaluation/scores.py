"""Quality and latency of a run in one row of numbers, and the check that the model did not collapse."""

from echostream_plugin.evaluation.intervals import CorpusWer
from echostream_plugin.evaluation.latency import score_latency
from echostream_plugin.evaluation.normalize import normalize

COLLAPSE_SHARE = 0.1  # fewer distinct outputs than this share of the distinct references is a collapse


def wer(hypotheses: list[str], references: list[str]) -> float:
    """Word error rate in percent over a corpus, after `normalize`; words said for an empty reference are insertions."""
    _require_pairs(hypotheses, references)
    return CorpusWer(hypotheses, references)(slice(None))


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """Corpus BLEU (sacrebleu, 13a) after `normalize`; of transcripts it is ASR-BLEU, of texts it is text BLEU."""
    import sacrebleu

    _require_pairs(hypotheses, references)
    hypotheses, references = [normalize(h) for h in hypotheses], [normalize(r) for r in references]
    # effective_order only matters for corpora without a single 4-gram, such as one short sentence
    metric = sacrebleu.BLEU(tokenize="13a", effective_order=len(references) < 10)
    return metric.corpus_score(hypotheses, [references]).score


def _require_pairs(hypotheses, references):
    if len(hypotheses) != len(references) or not references:
        message = f"{len(hypotheses)} hypotheses and {len(references)} references: give one of each per utterance"
        raise ValueError(message)


def score_run(utterances, references, asr=None, sources=None, cache=None, timed=True, progress="scoring ASR") -> dict:
    """Scores of a list of `simul.Utterance`.

    references, sources: target and source texts by position (an utterance without reference: ""); asr: a `ScoringASR`,
    None leaves ASR-BLEU out; timed: whether the pushes were timed, for computation-aware latency. Percentages and
    milliseconds.
    """
    row = {"utterances": len(utterances), "silent": sum(not u.speech.delays for u in utterances)}
    transcripts = None
    if asr is not None:
        transcripts = asr.transcribe_all([u.speech.prediction or None for u in utterances], cache, progress)
    written = [u.translation_text for u in utterances]
    if any(references):
        if transcripts is not None:
            row["asr_bleu"] = bleu(transcripts, references)
        row["text_bleu"] = bleu(written, references)
    if transcripts is not None and any(written):
        row["speech_wer"] = wer(transcripts, written)
    if sources and any(sources):
        row["asr_wer"] = wer([u.transcript_text for u in utterances], sources)
    pushes = {u.index: u.pushes for u in utterances} if timed else None
    row |= score_latency([u.speech for u in utterances], [u.written for u in utterances], pushes)
    row["distinct"] = distinct(written)
    row["collapsed"] = collapsed(written, references)
    return row


def distinct(texts) -> int:
    """Number of different texts, case and punctuation aside."""
    return len({normalize(text) for text in texts})


def collapsed(outputs, references) -> bool:
    """Whether different inputs get (nearly) one and the same output: nothing at all counts as one output."""
    wanted = distinct(references)
    return wanted >= 4 and distinct(outputs) <= max(1, COLLAPSE_SHARE * wanted)


COLUMNS = {
    "mode": "Mode",
    "asr_bleu": "ASR-BLEU",
    "text_bleu": "text BLEU",
    "asr_wer": "source WER %",
    "speech_wer": "speech WER %",
    "AL": "AL ms",
    "AL_CA": "AL-CA ms",
    "LAAL": "LAAL ms",
    "ATD": "ATD ms",
    "StartOffset": "StartOffset ms",
    "EndOffset": "EndOffset ms",
    "RTF": "RTF",
    "compute_RTF": "computing / audio",
    "distinct": "distinct outputs",
}
LEGEND = (
    "ASR-BLEU: of what whisper-base, the scoring ASR, writes of the translated speech. Text BLEU: the written "
    "translation. Source WER: the written transcript. Speech WER: the scoring ASR against the written translation, "
    "what the vocoder loses. AL and LAAL are of the written words, each at the time it was complete (when the next "
    "began, or at the end), as SimulEval counts; ATD, StartOffset, EndOffset and RTF (end of the translation / length "
    "of the source) of the speech; CA is computation-aware, on one thread."
)
