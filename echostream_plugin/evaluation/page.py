"""What the demo shows of its results: a few lines that say what came out right, and a page to hear and see it all."""

from html import escape
from pathlib import Path

from echostream_plugin.evaluation.latency import TEXT_METRICS
from echostream_plugin.evaluation.samples import BROKEN, EXACT, REFUSED

GROUPS = ((False, "synthetic"), (True, "human"))
COLOURS = {EXACT: "#2f7d4f", REFUSED: "#6b6b6b", "": "#6b6b6b"}  # others: OFF
OFF = "#b3541e"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222; }
pre { background: #f5f4f1; padding: 1rem; overflow-x: auto; font-size: 13px; }
section { border-top: 1px solid #ccc; padding: 1rem 0; }
h2 { font-size: 1.1rem; margin: 0 0 .3rem; }
.verdict { color: #fff; border-radius: .6rem; padding: .1rem .6rem; font-size: .85rem; margin-left: .5rem; }
.told { color: #555; }
dl { display: grid; grid-template-columns: 8rem 1fr; margin: .5rem 0; }
dt { color: #555; } dd { margin: 0; }
figure { display: inline-block; margin: .3rem 1.5rem .3rem 0; } figcaption { font-size: .85rem; color: #555; }
img { max-width: 100%; display: block; margin-top: .5rem; }
"""
TRACKS = (("source", "said"), ("translated", "translated"), ("together", "both: said left, translated right"))
TEXTS = (("source", "said"), ("transcript", "transcript"), ("reference", "reference"), ("translation", "translation"))


def show(row: dict, folder: Path) -> str:
    """A recording's result in a few lines."""
    lines = [f"{row['recording']} ({row['seconds']:.1f} s)"]
    for key, title in (
        ("told", "voice"), ("source", "said"), ("transcript", "transcript"), ("reference", "reference"),
        ("translation", "translation"), ("asr", "scoring ASR"), ("verdict", "came out"),
    ):  # fmt: skip
        if row[key] or key in ("transcript", "translation"):
            lines.append(f"  {title + ':':<13}{row[key] or '(nothing)'}")
    if "StartOffset" in row:
        after = f"starts {row['StartOffset'] / 1000:.2f} s in, ends {row['EndOffset'] / 1000:.2f} s after the speaker"
        lines.append(f"  {'speech:':<13}{after}")
    lines.append(f"  {'files:':<13}{folder}/")
    return "\n".join(lines)


def summary(scores: dict, count: int) -> str:
    """The scores over all recordings in one line each."""
    names = {"asr_bleu": "ASR-BLEU", "text_bleu": "text BLEU", "asr_wer": "transcript WER %"}
    lines = [f"{title:<22}{scores[key]:8.1f}" for key, title in names.items() if key in scores]
    for key in (*TEXT_METRICS, "ATD", "StartOffset", "EndOffset"):
        if key in scores:
            aware = f"   ({scores[key + '_CA']:.0f} with computing)" if key + "_CA" in scores else ""
            lines.append(f"{key + ' ms':<22}{scores[key]:8.0f}{aware}")
    for key, title in (("RTF", "RTF"), ("compute_RTF", "computing / audio")):
        if key in scores:
            lines.append(f"{title:<22}{scores[key]:8.2f}")
    return f"over {count} recording(s):\n  " + "\n  ".join(lines or ["nothing was said"])


def at_a_glance(rows: list[dict]) -> str:
    """A line for each recording that says how it came out, and how many of each kind came out exactly right.

    rows: recording, verdict, told, human, translation of each, as scripts/demo.py has them."""
    widths = [max([len(row[key]) for row in rows] + [0]) for key in ("verdict", "recording", "told")]
    lines = [
        f"{row['verdict']:<{widths[0]}}  {row['recording']:<{widths[1]}}  {row['told']:<{widths[2]}}  "
        f"{row['translation'] or '(nothing)'}"
        for row in rows
    ]
    return "\n".join([*map(str.rstrip, lines), "", *_counts(rows)])


def _counts(rows: list[dict]) -> list[str]:
    lines = []
    for human, name in GROUPS:
        verdicts = [row["verdict"] for row in rows if row["human"] == human and row["verdict"]]
        if verdicts:
            refused, broken = verdicts.count(REFUSED), verdicts.count(BROKEN)
            line = f"{name}: {verdicts.count(EXACT)} of {len(verdicts)} exactly right, {refused} refused"
            lines.append(line + (f", {broken} broken off" if broken else ""))
    return lines


def page(rows: list[dict], summary: str) -> str:
    """The html page of a demo's folder; it names the files beside it."""
    parts = ["<!doctype html><html lang='en'><meta charset='utf-8'><title>EchoStream demo</title>"]
    parts += [f"<style>{STYLE}</style>", "<h1>EchoStream, simultaneously</h1>", f"<pre>{escape(summary)}</pre>"]
    return "\n".join([*parts, *map(_section, rows), "</html>\n"])


def _section(row: dict) -> str:
    name, verdict = escape(row["recording"]), row["verdict"]
    badge = f"<span class='verdict' style='background:{COLOURS.get(verdict, OFF)}'>{escape(verdict)}</span>"
    tracks = "".join(
        f"<figure><audio controls preload='none' src='{name}/{track}.wav'></audio>"
        f"<figcaption>{title}</figcaption></figure>"
        for track, title in TRACKS
    )
    texts = "".join(f"<dt>{title}</dt><dd>{escape(row[key]) or '–'}</dd>" for key, title in TEXTS)
    heading = f"<h2>{name}{badge * bool(verdict)}</h2><div class='told'>{escape(row['told'])}</div>"
    picture = f"<img src='{name}/timeline.png' alt='when what was said and written'>"
    return f"<section>{heading}<dl>{texts}</dl>{tracks}{picture}</section>"
