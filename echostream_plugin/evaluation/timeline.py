"""One picture of a simultaneous translation: source wave, what was written when, translated wave where it was heard."""

import textwrap
from pathlib import Path

import numpy as np

from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.evaluation.latency import playback, written_words
from echostream_plugin.files import whole_file

SOURCE_COLOUR, TRANSCRIPT_COLOUR, TARGET_COLOUR = "#31688e", "#1f4e70", "#c2571a"
INCHES_PER_SECOND = 2.0
ROW_INCHES = 0.24
WAVE_INCHES = 1.15
ENVELOPE_COLUMNS = 2400
LABEL_LETTERS = 44


def draw_timeline(
    utterance, path, source, translated, sample_rate: int = SAMPLE_RATE, asr_text: str | None = None, told: str = ""
) -> Path:
    """Draw an `simul.Utterance` into a png.

    source, translated: mono samples [n] at `sample_rate`; `translated` starts when the first chunk was written and
    holds the silences between chunks, as SimulEval writes it. asr_text: the scoring ASR's transcript of it;
    told: who speaks, and how it came out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    start_ms = utterance.speech.delays[0] if utterance.speech.delays else utterance.source_ms
    seconds = max(utterance.source_ms / 1000, (start_ms / 1000) + len(translated) / sample_rate, 1.0) * 1.02
    width = min(max(10.0, seconds * INCHES_PER_SECOND), 40.0)
    lanes = [_labels(utterance.transcript), _labels(utterance.translation)]
    for _ in range(4):  # room on the right for words written at the very end
        ends = [time + _inches(text) * seconds / (width - 1.35) for lane in lanes for time, text in lane]
        seconds = max([seconds, *ends])
    rows = [_rows(labels, seconds, width) for labels in lanes]
    heights = [WAVE_INCHES] + [max(1, max(r, default=0) + 1) * ROW_INCHES + 0.12 for r in rows] + [WAVE_INCHES]
    unsure = getattr(utterance, "unsure", ())
    caption = _caption(utterance, asr_text, told, bool(unsure), int(width * 11))
    figure, axes = _figure(caption, width, heights)
    _wave(axes[0], source, 0.0, sample_rate, SOURCE_COLOUR, "source\nspeech")
    _lane(axes[1], lanes[0], rows[0], TRANSCRIPT_COLOUR, "transcript\nwritten")
    _lane(axes[2], lanes[1], rows[1], TARGET_COLOUR, "translation\nwritten")
    for begin, end, _ in unsure:
        axes[0].axvspan(begin / 1000, end / 1000, color="0.5", alpha=0.2, linewidth=0)
    _wave(axes[3], translated, start_ms / 1000, sample_rate, TARGET_COLOUR, "translated\nspeech")
    for begin, end in playback(utterance.speech.delays, utterance.speech.durations):
        axes[3].axvspan(begin / 1000, end / 1000, color=TARGET_COLOUR, alpha=0.08, linewidth=0)
    for axis in axes:
        axis.axvline(utterance.source_ms / 1000, color="0.4", linewidth=0.8, linestyle="--")
    axes[0].set_xlim(0, seconds)
    axes[3].set_xlabel("time in seconds from the first source sample (dashed: the speaker ends)")
    axes[3].xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(0.5 if seconds <= 12 else 1.0))
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)
    return Path(path)


def _figure(caption: str, width: float, heights: list):
    """A figure of four rows, `heights` inches each, under a caption; its axes."""
    from matplotlib import pyplot

    top = 0.35 + 0.2 * (caption.count("\n") + 1)
    height = top + sum(heights) + 0.15 * 3 + 0.6
    figure, axes = pyplot.subplots(
        len(heights), 1, sharex=True, figsize=(width, height), gridspec_kw={"height_ratios": heights}, layout=None
    )
    figure.subplots_adjust(
        left=1.15 / width, right=1 - 0.2 / width, top=1 - top / height, bottom=0.55 / height, hspace=0.15
    )
    figure.text(0.2 / width, 1 - 0.15 / height, caption, va="top", fontsize=9, linespacing=1.35)
    return figure, axes


def _labels(pieces) -> list[tuple[float, str]]:
    """(seconds, words written then) of a text that grew; long ones as several labels of the same time."""
    labels = []
    for word, delay, _ in written_words(pieces):
        if labels and labels[-1][0] == delay / 1000:
            labels[-1] = (labels[-1][0], f"{labels[-1][1]} {word}")
        else:
            labels.append((delay / 1000, word))
    wrapped = ((time, textwrap.wrap(text, LABEL_LETTERS, max_lines=8, placeholder=" …")) for time, text in labels)
    return [(time, line) for time, lines in wrapped for line in lines]


def _rows(labels, seconds: float, width: float) -> list[int]:
    """A row for each label such that labels of a row do not touch; widths are those of the font, not guesses."""
    seconds_per_inch = seconds / (width - 1.35)
    free_from, rows = [], []
    for time, text in labels:
        row = next((number for number, free in enumerate(free_from) if free <= time), len(free_from))
        if row == len(free_from):
            free_from.append(0.0)
        free_from[row] = time + _inches(text) * seconds_per_inch
        rows.append(row)
    return rows


def _inches(text: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, prop=FontProperties(size=9)).get_extents().width / 72 + 0.22


def _lane(axis, labels, rows, colour, title) -> None:
    count = max(rows, default=0) + 1
    axis.set_ylim(-count + 0.3, 0.7)
    for (time, text), row in zip(labels, rows, strict=True):
        axis.plot([time, time], [-row - 0.32, 0.7], color=colour, linewidth=0.8, alpha=0.45)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axis.annotate(
            text, (time, -row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=9, color=colour,
            bbox=box, annotation_clip=False,
        )  # fmt: skip
    if not labels:
        axis.text(0.5, 0.5, "nothing", transform=axis.transAxes, ha="center", va="center", fontsize=9, color="0.5")
    _bare(axis, title)


def _wave(axis, samples, start_seconds, sample_rate, colour, title) -> None:
    samples = np.asarray(samples, dtype=np.float32)
    if len(samples):
        low, high, times = _envelope(samples, sample_rate)
        axis.fill_between(times + start_seconds, low, high, color=colour, linewidth=0.3)
        axis.set_ylim(*(np.array([-1.08, 1.08]) * max(float(np.abs(samples).max()), 1e-3)))
    else:
        axis.text(0.5, 0.5, "silence", transform=axis.transAxes, ha="center", va="center", fontsize=9, color="0.5")
    _bare(axis, title)


def _envelope(samples, sample_rate):
    """Least and greatest sample of each of a few thousand columns, and the columns' times in seconds."""
    size = max(1, len(samples) // ENVELOPE_COLUMNS)
    columns = samples[: len(samples) // size * size].reshape(-1, size)
    return columns.min(axis=1), columns.max(axis=1), np.arange(len(columns)) * size / sample_rate


def _bare(axis, title) -> None:
    axis.set_yticks([])
    axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.grid(axis="x", linewidth=0.3, alpha=0.6)
    axis.set_axisbelow(True)


def _caption(utterance, asr_text, told: str, unsure: bool, columns: int) -> str:
    lines = [f"{Path(utterance.speech.source).name}: {utterance.source_ms / 1000:.2f} s of speech"]
    lines[0] += f" ({told})" if told else ""
    if utterance.speech.delays:
        end = playback(utterance.speech.delays, utterance.speech.durations)[-1][1]
        after = (end - utterance.source_ms) / 1000
        start = utterance.speech.delays[0] / 1000
        lines[0] += f"; the translation starts at {start:.2f} s and ends {after:.2f} s after the speaker"
    else:
        lines[0] += "; nothing was said" + "; grey: not understood, so not translated" * unsure
    for title, text in (("reference", utterance.speech.reference), ("transcript of the voice", asr_text)):
        if text:
            lines.append(f"{title}: {text}")
    return "\n".join(wrapped for line in lines for wrapped in (textwrap.wrap(line, columns) or [""]))
