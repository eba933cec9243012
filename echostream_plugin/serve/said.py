"""What a client of plain text has been told, so that a revised sentence can be said as simulstream says it: the newest
words are deleted, back to the first one that is other now, and said again."""

from echostream_plugin.inference.events import Finished, Revision, Sentence, SourceText, TargetText

KEPT = 8  # finished sentences that can still be revised; one that is older stays as it was said
FIELDS = {TargetText: "target_text", SourceText: "source_text"}


class Said:
    """The newest sentences of the translation (kind TargetText) or of the transcript (SourceText)."""

    def __init__(self, kind=TargetText):
        self._kind, self._field = kind, FIELDS[kind]
        self._sentences = []  # [index or None, text], the newest last
        self._open = ""
        self._older = False  # something was said before them
        self._next = 0  # index of the open sentence

    def grow(self, text: str):
        """The open sentence is this now."""
        self._open = text

    def take(self, event):
        """An event of a session, in its order."""
        if isinstance(event, self._kind):
            if event.text == event.added:  # a new sentence, also where the end of the last one was not said
                self._end(None)
            self.grow(event.text)
        elif isinstance(event, Sentence):
            self._end(event.index)
        elif isinstance(event, Finished):
            self._end(None)
        elif isinstance(event, Revision):
            self._revise(event.index, getattr(event, self._field))

    def is_open(self, index: int) -> bool:
        """Is it the open sentence's? Of an utterance without pauses nothing but its revision says that it is over."""
        return index == self._next

    def _end(self, index):
        if self._open or index is not None:  # one without a text may get one by its revision
            self._sentences.append([index, self._open])
            self._open = ""
        if index is not None:
            self._next = index + 1

    def _revise(self, index: int, text: str):
        if self.is_open(index):
            self._end(index)
        for sentence in self._sentences:
            if sentence[0] == index:
                sentence[1] = text

    def trim(self):
        """Forget sentences that are too old to be revised. Texts before and after this cannot be compared."""
        while len(self._sentences) > KEPT:
            self._older = bool(self._sentences.pop(0)[1].strip()) or self._older

    def text(self) -> str:
        """All of it, sentences with a space between them, and before them where something older was said."""
        parts = [text.strip() for _, text in self._sentences] + [self._open.lstrip()]
        text = " ".join(part for part in parts if part)
        return f" {text}" if text and self._older else text


def changed(before: str, after: str) -> tuple[str, str]:
    """(new, deleted) that lead from a text to another: whole words go, and nothing where the text only grew."""
    if after.startswith(before):
        return after[len(before) :], ""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    if before[same : same + 1].strip() or after[same : same + 1].strip():
        same = max(before.rfind(" ", 0, same), 0)
    return after[same:], before[same:]


def changed_words(before: list[str], after: list[str]) -> tuple[list[str], list[str]]:
    """The same of lists of words."""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    return after[same:], before[same:]
