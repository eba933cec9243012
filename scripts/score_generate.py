#!/usr/bin/env python3
"""Score fairseq-generate's offline translations: text BLEU, WER, unit error rate, and ASR-BLEU of the spoken units.

    fairseq-generate DATA ... --results-path out | tee out/screen.txt
    python scripts/score_generate.py --log out/screen.txt out/generate-test.txt --manifest DATA/test.tsv \\
        --vocoder examples/quickstart/bundle --output out

References are the manifest's src_text, tgt_text and tgt_audio. Without --vocoder nothing is spoken. Leaves scores.json,
and wavs and transcripts that a second run keeps. Exit status 3: the model collapsed (one output for all).
"""

import argparse
import sys
from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError
from echostream_plugin.data.tables import read_table
from echostream_plugin.evaluation.asr import ScoringASR, ScoringASRError
from echostream_plugin.evaluation.generate_log import GenerateLogError, read_generate_logs
from echostream_plugin.evaluation.scores import bleu, collapsed, distinct, wer
from echostream_plugin.files import write_json

COLLAPSED = 3
COLUMNS = ("src_text", "tgt_text", "tgt_audio")  # of the manifest that was translated


def score(log, rows: list[dict]) -> dict:
    """Text and unit scores of the rows that were translated (fairseq leaves out those over its length limits)."""
    done = sorted(log.translations or log.units)
    if done and done[-1] >= len(rows):
        raise GenerateLogError(f"the log has row {done[-1]}, but the manifest only {len(rows)}; is it another split?")

    def references(part: dict, column: str):
        return [part[row] for row in sorted(part)], [rows[row][column] for row in sorted(part)]

    scores = {"utterances": len(done), "left_out": len(rows) - len(done)}
    if log.translations:
        scores["text_bleu"] = bleu(*references(log.translations, "tgt_text"))
        scores["distinct"] = distinct(log.translations.values())
        scores["collapsed"] = collapsed(*references(log.translations, "tgt_text"))
    if log.ctc_translations:
        scores["ctc_text_bleu"] = bleu(*references(log.ctc_translations, "tgt_text"))
    if log.transcripts:
        scores["asr_wer"] = wer(*references(log.transcripts, "src_text"))
    if log.units:
        import jiwer

        wanted = [rows[row]["tgt_audio"] for row in sorted(log.units)]
        found = [" ".join(map(str, log.units[row])) for row in sorted(log.units)]
        scores["unit_error_rate"] = 100 * jiwer.wer(wanted, found)
    return scores


def score_speech(log, rows, vocoder, output: Path) -> dict:
    """ASR-BLEU of the units' speech, and its WER against the reference."""
    from echostream_plugin.evaluation.resynthesis import write_wavs

    order = sorted(log.units)
    wavs = write_wavs(vocoder, {str(row): log.units[row] for row in order}, output / "wavs")
    transcripts = ScoringASR().transcribe_all([wavs[str(row)] for row in order], cache=output / "transcripts.jsonl")
    references = [rows[row]["tgt_text"] for row in order]
    return {"asr_bleu": bleu(transcripts, references), "speech_wer": wer(transcripts, references)}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", nargs="+", required=True, help="captured screen, and the results file if there is one")
    parser.add_argument("--manifest", required=True, type=Path, help="the tsv that was translated")
    parser.add_argument("--vocoder", help="vocoder folder, bundle, or public checkpoint")
    parser.add_argument("--vocoder-config", help="config.json of a public checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="folder of scores.json and wavs")
    args = parser.parse_args(argv)
    try:
        log, rows = read_generate_logs(args.log), read_table(args.manifest, COLUMNS)
        scores = score(log, rows)
        if args.vocoder:
            from echostream_plugin.evaluation.resynthesis import open_vocoder

            scores |= score_speech(log, rows, open_vocoder(args.vocoder, args.vocoder_config), args.output)
    except (ConfigError, DataError, GenerateLogError, ScoringASRError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(args.output / "scores.json", scores)
    for name, value in scores.items():
        print(f"{name:18}{value:.2f}" if isinstance(value, float) else f"{name:18}{value}")
    return COLLAPSED if scores.get("collapsed") else 0


if __name__ == "__main__":
    sys.exit(main())
