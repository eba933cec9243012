"""What an agent leaves beside SimulEval's own log."""

import atexit
import json
import sys
from pathlib import Path

from echostream_plugin.inference.events import Finished, SourceText, Speech, TargetText, as_record, refusal


class EventLog:
    """events.jsonl (every event at once) and StreamSpeech's asr.txt, st.txt, unit.txt (a line for each utterance)."""

    def __init__(self, args):
        self.folder = Path(args.extra_output_dir) if args.extra_output_dir else None
        self.prints = args.output_asr_translation
        self.index = getattr(args, "start_index", 0) or 0
        self.units = []
        self.texts = {SourceText: "", TargetText: ""}
        self.refused = []  # of the run: which recordings were no audio
        atexit.register(self.summarise)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not getattr(args, "continue_unfinished", False):
                for name in ("events.jsonl", "asr.txt", "st.txt", "unit.txt"):
                    (self.folder / name).write_text("")

    def drop(self):
        """The utterance is over, or given up."""
        self.units = []
        self.texts = {SourceText: "", TargetText: ""}

    def refuse(self, reason: str):
        """The present recording is no audio."""
        self.refused.append(self.index)
        print(f"error: recording {self.index} (counted from 0) is not translated: {reason}", file=sys.stderr)
        if self.folder is not None:
            self._append("events.jsonl", json.dumps({"index": self.index, **refusal(reason)}, ensure_ascii=False))

    def summarise(self):
        """The last word of a run."""
        if self.refused:
            indices = ", ".join(map(str, self.refused))
            count = len(self.refused)
            print(f"error: {count} recording(s) were refused and have no translation: {indices}", file=sys.stderr)

    def write(self, events: list):
        """The next events of a push; those that end a recording are followed by its lines."""
        for event in events:
            if isinstance(event, SourceText | TargetText):
                self.texts[type(event)] = event.text
                if self.prints:
                    name = "Streaming ASR" if isinstance(event, SourceText) else "Simultaneous translation"
                    print(f"{name}: {event.text}")
            elif isinstance(event, Speech):
                self.units += event.units
        if events and isinstance(events[-1], Finished):
            self._end(events)
        elif events and self.folder is not None:
            self._note(events)

    def _end(self, events: list):
        """The recording's last events, and its lines."""
        if self.folder is not None:
            self._note(events)
            self._append("asr.txt", self.texts[SourceText])
            self._append("st.txt", self.texts[TargetText])
            self._append("unit.txt", " ".join(map(str, self.units)))
        self.index += 1

    def _note(self, events: list):
        records = [{"index": self.index, **as_record(event)} for event in events]
        self._append("events.jsonl", *(json.dumps(record, ensure_ascii=False) for record in records))

    def _append(self, name: str, *lines):
        with open(self.folder / name, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
