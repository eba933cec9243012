"""A recording translated into a folder, in a run that may be killed at any moment and taken up again.

While a run is unfinished, its folder holds a checkpoint: the session's snapshot, how far the result files were then,
and what was asked for. Whatever was written after it is cut off when the run goes on, and comes again. The finished
results are those of a run that was never stopped. Where the folder holds those of an earlier run, they stay until the
new ones are complete.
"""

import dataclasses
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from echostream_plugin.inference import snapshot
from echostream_plugin.inference.audio import FileRecording
from echostream_plugin.inference.digest import bundle_digest, digest
from echostream_plugin.inference.errors import InputError, OutputError, ResumeError
from echostream_plugin.inference.results import RESULT_FILES, ResultWriter
from echostream_plugin.inference.session import TranslationSession

CHECKPOINT = "unfinished.safetensors"
BESIDE = "unfinished.echostream"  # a folder for results that are to replace others, until they are complete
CHECKPOINT_MS = 10_000  # of source between two checkpoints


def describe(session: TranslationSession, audio, bundle, push_ms: int, **more) -> dict:
    """What a run was asked for, by name; a checkpoint belongs to one such description.

    audio, bundle: paths; more: other settings that the results depend on, plain values."""
    try:
        recording = digest(audio)
    except (OSError, ValueError) as error:
        raise InputError(f"{audio}: no such audio file") from error
    asked = {"recording": recording, "bundle": bundle_digest(bundle), "push_ms": push_ms, **more}
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
            snapshot.check_version(saved["session"])
        except ResumeError as error:
            raise ResumeError(f"{self.path}: {error}, with --restart") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ResumeError(f"{self.path}: cannot be read ({error}); begin anew with --restart") from error
        names = sorted(set(begun) | set(self.asked))
        other = [name for name in names if begun.get(name) != self.asked.get(name)]
        if other:
            raise ResumeError(
                f"{self.path.parent} holds an unfinished run with another {', another '.join(other)}: repeat its "
                "command to go on, or choose another folder, or begin anew with --restart"
            )
        return saved

    def save(self, session: TranslationSession, results: ResultWriter | None, taken_samples: int, beside: bool = False):
        """results: None: not yet begun; taken_samples: of the recording, at its own rate; beside: the results are in
        `BESIDE` while the folder holds those of an earlier run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {"taken_samples": taken_samples, "beside": beside, "session": session.snapshot()}
        position = None if results is None else results.position
        snapshot.save(self.path, {"asked": self.asked, "results": position, **state})

    def remove(self):
        """The run is over, there is nothing to go on with."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunReport:
    """What became of a recording. seconds: translated, by this call from `began_seconds` on; problem: what of it could
    not be read, or \"\"; interrupted: Ctrl-C ended it, before it would have ended itself."""

    seconds: float
    began_seconds: float = 0.0
    problem: str = ""
    interrupted: bool = False


def translate_recording(
    session: TranslationSession,
    audio,
    push_ms: int,
    folder,
    speech_rate: int,
    checkpoint: Checkpoint | None = None,
    show=None,
    checkpoint_ms: int = CHECKPOINT_MS,
) -> RunReport:
    """Push a recording in pieces of `push_ms`, read and written to `folder` as it goes; show(event) is called as events
    come. With a checkpoint an unfinished run resumes where it was.

    audio: a path, or what `open_recording` gave. Results that are in the folder already stay until the new ones are
    complete. Where nothing was translated at all, nothing is left. Raises InputError then, OutputError or OSError where
    the results cannot be written, ResumeError where the unfinished run cannot be taken up."""
    recording = audio if hasattr(audio, "blocks") else FileRecording(audio)
    with recording, _Run(session, folder, speech_rate, checkpoint) as run:
        step = max(1, recording.rate * push_ms // 1000)
        noted = began = run.taken
        total = None if recording.samples is None else -(-recording.samples // step)
        progress = {"desc": "translating", "unit": "push", "total": total, "initial": began // step}
        pushed = PushedRecording(session, recording, step, began)
        for events in tqdm(pushed, leave=False, disable=None, **progress):
            events = list(events)
            run.results.add(events)
            for event in events:
                if show:
                    show(event)
            if pushed.taken - noted >= recording.rate * checkpoint_ms / 1000:
                run.save(pushed.taken)
                noted = pushed.taken
        run.complete = True
    seconds = pushed.taken / recording.rate
    return RunReport(seconds, began / recording.rate, recording.problem, pushed.interrupted)


class PushedRecording:
    """A recording pushed through a session, to iterate over: the events of each push, then those of the end.

    What the session refuses ends the recording, and is its `problem`; Ctrl-C ends one whose length nobody knows, such
    as live speech. taken: samples so far. Raises InputError where no audio can be read."""

    def __init__(self, session: TranslationSession, recording, step: int, taken: int = 0):
        """step: samples of a push; taken: those that the session already has."""
        self.session, self.recording, self.step, self.taken = session, recording, step, taken
        self.interrupted = False

    def __iter__(self):
        recording, rate = self.recording, self.recording.rate
        for block in self._blocks():
            try:
                events = self.session.push_events(block, rate)
            except InputError as error:
                after = f" is heard up to {self.taken / rate:.2f} s:" if self.taken else ""
                recording.problem = f"{recording.name}:{after} {error}"
                break
            self.taken += len(block)
            yield events
        if not self.taken:
            raise InputError(recording.problem or f"{recording.name}: holds no samples")
        yield self.session.finish_events()

    def _blocks(self):
        blocks = self.recording.blocks(self.step, self.taken)
        while True:
            try:
                block = next(blocks, None)
            except KeyboardInterrupt:
                if self.recording.samples is not None or not self.taken:
                    raise
                self.interrupted, block = True, None
            if block is None:
                return
            yield block


class _Run:
    """The files of a run, which are left complete, or to go on with, or not at all. Use as a context manager."""

    def __init__(self, session: TranslationSession, folder, speech_rate: int, checkpoint: Checkpoint | None):
        self.session, self.folder, self.checkpoint = session, Path(folder), checkpoint
        self.speech_rate = speech_rate
        self.complete = False
        self.results = None

    def __enter__(self):
        device = next(self.session.bundle.model.parameters()).device
        saved = self.checkpoint.load(device) if self.checkpoint else None
        self.taken = saved["taken_samples"] if saved else 0
        if saved:
            _restore(self.session, saved["session"], self.checkpoint.path)
        earlier = any(os.path.lexists(self.folder / name) for name in RESULT_FILES)
        self._beside = saved.get("beside", False) if saved else earlier
        self._working = self.folder / BESIDE if self._beside else self.folder
        position = saved["results"] if saved else None
        try:
            if not saved:
                self.save(0)
            more = self.session.options.resynthesize, _languages(self.session)
            self.results = ResultWriter(self._working, self.speech_rate, position, *more)
        except ResumeError:
            raise
        except Exception:
            self._discard()
            raise
        return self

    def save(self, taken: int):
        if self.checkpoint:
            self.checkpoint.save(self.session, self.results, taken, self._beside)

    def __exit__(self, kind, error, trace):
        nothing_said = self.results.position["bytes"]["events.jsonl"] == 0
        try:
            self.results.__exit__(kind, error, trace)
        finally:
            if isinstance(error, Exception | KeyboardInterrupt) and nothing_said:
                self._discard()
        if self.complete and self._beside:
            self.results.move_to(self.folder)
            remove_if_empty(self.folder / BESIDE)
        if self.complete and self.checkpoint:
            self.checkpoint.remove()

    def _discard(self):
        """No file of this run is left."""
        if self.checkpoint:
            self.checkpoint.remove()
        for name in RESULT_FILES:
            (self._working / name).unlink(missing_ok=True)
        if self._beside:
            remove_if_empty(self._working)


@contextmanager
def claimed(folder):
    """Hold a folder for one run; made, and removed again if nothing came to be in it. Raises OutputError where another
    process holds it, or it cannot be made."""
    folder = Path(folder)
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{str(folder)[:200]}: cannot be made a folder ({reason})") from error
    try:
        with _locked(folder):
            yield
    finally:
        for path in made:
            remove_if_empty(path)


@contextmanager
def _locked(folder: Path):
    """No other process has the folder; the system lets it go when this one ends, however it ends."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{folder}: another run is writing there now; choose another folder") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def remove_if_empty(folder: Path):
    """Remove a folder that holds nothing."""
    try:
        folder.rmdir()
    except OSError:
        pass


def discard_unfinished(folder):
    """Remove the checkpoint of an unfinished run and, of a run beside earlier results, its files."""
    folder = Path(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    for name in RESULT_FILES:
        (folder / BESIDE / name).unlink(missing_ok=True)
    remove_if_empty(folder / BESIDE)


def _languages(session: TranslationSession) -> dict:
    """Of texts with marks, for `ResultWriter`."""
    if not session.options.punctuate:
        return {}
    languages = session.bundle.punctuator.languages
    return {"source": languages["source"], "translation": languages["target"]}


def _restore(session: TranslationSession, saved: dict, path: Path):
    try:
        session.restore(saved)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ResumeError(f"{path}: made by another version ({error!r}); begin anew with --restart") from error
