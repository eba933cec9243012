"""Subtitles that can be read: cues of two lines at most, never faster than one reads, one after the other."""

import textwrap

from echostream_plugin.inference.words import ends_sentence

LINE_CHARACTERS = 42
CUE_LINES = 2
CHARACTERS_PER_SECOND = 20
SHORTEST_CUE_MS = 40
VTT_HEADER = "WEBVTT\n\n"


def srt_time(milliseconds: float) -> str:
    """A time of a SubRip file: hours:minutes:seconds,milliseconds."""
    seconds, rest = divmod(round(milliseconds), 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d},{rest:03d}"


def vtt_time(milliseconds: float) -> str:
    """A time of a WebVTT file, with a point."""
    return srt_time(milliseconds).replace(",", ".")


def srt_cue(number: int, start_ms: float, end_ms: float, lines: list) -> str:
    """A cue of a SubRip file."""
    return "\n".join([str(number), f"{srt_time(start_ms)} --> {srt_time(end_ms)}", *lines, "", ""])


def vtt_cue(number: int, start_ms: float, end_ms: float, lines: list) -> str:
    """A cue of a WebVTT file, which begins with `VTT_HEADER`."""
    marks = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    lines = [line.translate(marks) for line in lines]
    return "\n".join([str(number), f"{vtt_time(start_ms)} --> {vtt_time(end_ms)}", *lines, "", ""])


def cues(text: str, start_ms: float, end_ms: float, free_ms: float = 0.0) -> list:
    """A text that lies from `start_ms` to `end_ms`, as cues (start_ms, end_ms, lines); no cue has the end of a sentence
    and the beginning of the next.

    They share its time by their length. None begins before `free_ms`, the end of the cue before it, nor is shorter than
    it takes to read, so the last may end after the sentence, and then the next sentence's first begins later."""
    pieces = [balanced_lines(sentence) for sentence in sentences(text)]
    groups = [lines[first : first + CUE_LINES] for lines in pieces for first in range(0, len(lines), CUE_LINES)]
    sizes = [sum(map(len, group)) for group in groups]
    found, said = [], 0
    for group, size in zip(groups, sizes, strict=True):
        wanted = start_ms + (end_ms - start_ms) * said / sum(sizes)
        said += size
        start = max(round(wanted), round(free_ms))
        least = max(SHORTEST_CUE_MS, -(-1000 * size // CHARACTERS_PER_SECOND))
        free_ms = max(start + least, round(start_ms + (end_ms - start_ms) * said / sum(sizes)))
        found.append((start, free_ms, group))
    return found


def sentences(text: str) -> list:
    """The sentences of a text with marks, else the text."""
    found = [[]]
    for word in text.split():
        found[-1].append(word)
        if ends_sentence(word):
            found.append([])
    return [" ".join(words) for words in found if words]


def balanced_lines(text: str) -> list:
    """The text in as few lines as do, of much the same length; a word that is longer than a line is cut."""
    lines = textwrap.wrap(text, LINE_CHARACTERS, break_on_hyphens=False)
    if len(lines) < 2:
        return lines
    for width in range(-(-len(text) // len(lines)), LINE_CHARACTERS):
        narrower = textwrap.wrap(text, width, break_on_hyphens=False)
        if len(narrower) == len(lines):
            return narrower
    return lines
