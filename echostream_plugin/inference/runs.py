"""A recording translated into a folder, in a run that may be killed at any moment and taken up again.

While a run is unfinished, its folder holds a checkpoint: the session's snapshot, how far the result files were then,
and what was asked for. Whatever was written after it is cut off when the run goes on, and comes again. The finished
results are those of a run that was never stopped.
"""

import dataclasses
import json
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.inference import snapshot
from echostream_plugin.inference.audio import audio_blocks
from echostream_plugin.inference.digest import bundle_digest, digest
from echostream_plugin.inference.errors import InputError, ResumeError
from echostream_plugin.inference.results import ResultWriter
from echostream_plugin.inference.session import TranslationSession

CHECKPOINT = "unfinished.safetensors"
CHECKPOINT_MS = 10_000  # of source between two checkpoints


def describe(session: TranslationSession, audio, bundle, push_ms: int, **more) -> dict:
    """What a run was asked for, by name; a checkpoint belongs to one such description.

    audio, bundle: paths; more: other settings that the results depend on, plain values."""
    if not Path(audio).is_file():
        raise InputError(f"{audio}: no such audio file")
    asked = {"recording": digest(audio), "bundle": bundle_digest(bundle), "push_ms": push_ms, **more}
    return asked | dataclasses.asdict(session.options)


class Checkpoint:
    """The state of an unfinished run in its folder."""

    def __init__(self, folder, asked: dict):
        self.path = Path(folder) / CHECKPOINT
        self.asked = json.loads(json.dumps(asked))

    def load(self, device="cpu") -> dict | None:
        """What `save` wrote, None where there is nothing. Raises ResumeError where it is not of this run."""
        if not self.path.is_file():
            return None
        try:
            saved = snapshot.load(self.path, device)
            begun = saved["asked"]
        except (ValueError, KeyError) as error:
            raise ResumeError(f"{self.path}: cannot be read ({error}); begin anew with --restart") from error
        names = sorted(set(begun) | set(self.asked))
        other = [name for name in names if begun.get(name) != self.asked.get(name)]
        if other:
            raise ResumeError(
                f"{self.path.parent} holds an unfinished run with another {', another '.join(other)}: repeat its "
                "command to go on, or choose another folder, or begin anew with --restart"
            )
        return saved

    def save(self, session: TranslationSession, results: ResultWriter, taken_samples: int):
        """taken_samples: of the recording, at its own rate."""
        state = {"taken_samples": taken_samples, "results": results.position, "session": session.snapshot()}
        snapshot.save(self.path, {"asked": self.asked, **state})

    def remove(self):
        self.path.unlink(missing_ok=True)


def translate_recording(
    session: TranslationSession,
    audio,
    push_ms: int,
    folder,
    speech_rate: int,
    checkpoint: Checkpoint | None = None,
    show=None,
    checkpoint_ms: int = CHECKPOINT_MS,
) -> tuple[float, float]:
    """Push a recording in pieces of `push_ms`, read and written to `folder` as it goes; show(event) is called as events
    come. With a checkpoint an unfinished run goes on where it was.

    Returns the seconds of audio, and at how many of them this call began."""
    show = show or (lambda event: None)
    saved = checkpoint.load(next(session.bundle.model.parameters()).device) if checkpoint else None
    taken = saved["taken_samples"] if saved else 0
    rate, samples, blocks = audio_blocks(audio, push_ms, taken)
    step = max(1, rate * push_ms // 1000)
    if saved:
        session.restore(saved["session"])
    began, noted = taken, taken
    with ResultWriter(folder, speech_rate, saved["results"] if saved else None) as results:
        progress = {"desc": "translating", "unit": "push", "total": -(-samples // step), "initial": taken // step}
        for block in tqdm(blocks, leave=False, **progress):
            _report(session.push(block, rate), results, show)
            taken += len(block)
            if checkpoint and taken - noted >= rate * checkpoint_ms / 1000:
                checkpoint.save(session, results, taken)
                noted = taken
        _report(session.finish(), results, show)
    if checkpoint:
        checkpoint.remove()
    return samples / rate, began / rate


def _report(events: list, results: ResultWriter, show):
    results.add(events)
    for event in events:
        show(event)
