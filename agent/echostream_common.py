"""What the three SimulEval agents share: flags, loading, the session behind SimulEval's push and pop, logs.

SimulEval loads an agent by its path, so this file is imported as a neighbour (see the agents) and finds the repository
by its own path.
"""

import argparse
import atexit
import functools
import json
import sys
from pathlib import Path

import torch
from simuleval_repairs import joins_pieces, repair

REPOSITORY = Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from echostream_plugin.cli_options import add_option_flags, add_quantize_flag, options_of  # noqa: E402
from echostream_plugin.config import ConfigError  # noqa: E402
from echostream_plugin.inference.bundle import load_bundle  # noqa: E402
from echostream_plugin.inference.errors import InputError  # noqa: E402
from echostream_plugin.inference.events import (  # noqa: E402
    Finished,
    SourceText,
    Speech,
    TargetText,
    as_record,
    refusal,
)
from echostream_plugin.inference.optimize import PUSH_MS, optimize  # noqa: E402
from echostream_plugin.inference.session import (  # noqa: E402
    FRAME_MS,
    SessionOptions,
    TranslationSession,
    bundle_options,
)

DEFAULT_BUNDLE = REPOSITORY / "examples" / "quickstart" / "bundle"
DEFAULT_CHUNK_MS = 320
SHORTEST_CHUNK_MS = 160  # shorter segments than any seen in training serve nobody
# session options that are no flags here: with names or defaults of StreamSpeech's agents, set by the agent's class, and
# those of long streams, for a SimulEval recording is one utterance
OTHERWISE = ("chunk_ms", "max_tokens", "translate", "speech") + (
    *("pause_ms", "endpointer", "long_pause_ms", "longest_sentence_ms", "fresh_encoder", "context_tokens"),
    "resynthesize",
)

repair()

# flags of StreamSpeech's agents that its scripts pass and that change nothing: there they do nothing either, or the
# model, the bundle and SimulEval's segments say it
WITHOUT_EFFECT = {
    "--global-stats": "the feature statistics come with the model",
    "--tgt-splitter-type": "the dictionary says it",
    "--tgt-splitter-path": "the dictionary says it",
    "--agent-dir": "agents import by their own path",
    "--user-dir": "the package registers itself",
    "--shift-size": "features are 10 ms apart",
    "--window-size": "of 25 ms",
    "--sample-rate": "the rate of the audio itself counts",
    "--feature-dim": "80",
    "--segment-size": "SimulEval's --source-segment-size counts",
    "--unit-per-subword": "the model says it",
}


def truth(text: str) -> bool:
    """A boolean flag's value; `type=bool` would take the word False for true."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"'{text}': use true or false")
    return values[text.lower()]


def add_flags(parser: argparse.ArgumentParser):
    """StreamSpeech's flags, and --bundle."""
    model = parser.add_argument_group("EchoStream: model (a bundle, or a fairseq checkpoint with its data folder)")
    model.add_argument("--bundle", default=None, help=f"bundle folder (default: {DEFAULT_BUNDLE})")
    model.add_argument("--model-path", default=None, help="fairseq checkpoint of this plugin, in place of a bundle")
    model.add_argument("--data-bin", default=None, help="data folder of --model-path")
    model.add_argument("--config-yaml", default="config_gcmvn.yaml", help="data config in --data-bin")
    model.add_argument(
        "--multitask-config-yaml", default="config_mtl_asr_st_ctcst.yaml", help="multitask config in --data-bin"
    )
    model.add_argument("--vocoder", default=None, help="unit vocoder checkpoint, or a vocoder folder of this project")
    model.add_argument("--vocoder-cfg", default=None, help="config.json of a vocoder checkpoint")
    add_quantize_flag(model)
    model.add_argument("--dur-prediction", action="store_true", help="accepted; durations are always predicted")
    policy = parser.add_argument_group("EchoStream: policy (counts are subwords; default: the bundle's, else k 0, n 1)")
    segment = "encoder segment in ms (default: the bundle's, else the source segment size)"
    policy.add_argument("--chunk-ms", type=int, help=segment)
    policy.add_argument("--max-len", type=int, dest="max_tokens", help="most tokens added at the end of the source")
    add_option_flags(policy, SessionOptions, leave=OTHERWISE, truth=truth)
    policy.add_argument("--force-finish", action="store_true", help="accepted; the source always ends the translation")
    output = parser.add_argument_group("EchoStream: output")
    output.add_argument("--extra-output-dir", default=None, help="folder for events.jsonl, asr.txt, st.txt, unit.txt")
    output.add_argument(
        "--output-asr-translation", type=truth, default=False, help="print transcript and translation as they grow"
    )
    known = {name for action in parser._actions for name in action.option_strings}
    for flag, reason in WITHOUT_EFFECT.items():
        if flag not in known:  # SimulEval itself has --user-dir
            output.add_argument(flag, default=None, help=f"accepted without effect: {reason}")


def load_model(args, speech: bool = True):
    """The bundle that the flags name; speech: it must speak."""
    if args.model_path is None:
        bundle = load_bundle(args.bundle or DEFAULT_BUNDLE)
    else:
        if args.bundle is not None:
            raise ConfigError("give --bundle or --model-path, not both")
        if args.data_bin is None:
            raise ConfigError("--model-path needs --data-bin, the data folder with dictionaries and yaml files")
        from echostream_plugin.fairseq_ext.loading import load_checkpoint_bundle  # fairseq, only where it is needed

        bundle = load_checkpoint_bundle(
            args.model_path,
            args.data_bin,
            args.config_yaml,
            args.multitask_config_yaml,
            args.vocoder,
            args.vocoder_cfg,
            speech,
        )
    if speech and bundle.vocoder is None:
        raise ConfigError(
            "a unit vocoder is needed to speak: give --vocoder and --vocoder-cfg, or name it in --config-yaml"
            if args.model_path
            else "the bundle has no vocoder: use the text agents, or make it again with a vocoder"
        )
    options = bundle_options(bundle, chunk_ms=chunk_ms_of(args, bundle.session))
    push_ms = max(1, int(getattr(args, "source_segment_size", PUSH_MS)))
    return optimize(bundle.to(device_name(args.device)), args.quantize, args.vocoder_bf16, options, push_ms)


@functools.cache  # SimulEval asks twice; one warning is enough
def device_name(device: str) -> str:
    """torch's name of a device: StreamSpeech's scripts say `gpu`; without a GPU that is the CPU, with a warning."""
    name = "cuda" if device == "gpu" else device
    if name.startswith("cuda") and not torch.cuda.is_available():
        print(f"warning: --device {device}: torch finds no GPU here; running on the CPU", file=sys.stderr)
        return "cpu"
    return name


def chunk_ms_of(args, suited: dict | None = None) -> int:
    """The encoder segment: the flag's, else the one that suits the bundle, else what fits into a source segment.

    A source segment that is shorter (or under 160 ms) is computed provisionally while the encoder's segment fills."""
    chunk_ms = (suited or {}).get("chunk_ms") if args.chunk_ms is None else args.chunk_ms
    if chunk_ms is not None:
        return chunk_ms
    size = getattr(args, "source_segment_size", DEFAULT_CHUNK_MS)
    return size // FRAME_MS * FRAME_MS if size >= SHORTEST_CHUNK_MS else DEFAULT_CHUNK_MS


class SessionAgent:
    """A SimulEval agent around a `TranslationSession`; mixed into SimulEval's agent classes.

    `act(events, finished)` turns what the session said into an action. Audio is taken from `states.source` once, by an
    offset; the last write of an utterance is marked finished."""

    translate = True
    speech = False

    def __init__(self, args):
        if getattr(args, "eval_latency_unit", "word") == "spm":
            raise ConfigError("--eval-latency-unit spm: the agents write words; use word or char")
        self.bundle = load_model(args, self.speech)
        own = {"chunk_ms": chunk_ms_of(args, self.bundle.session), "translate": self.translate, "speech": self.speech}
        options = bundle_options(self.bundle, **{**options_of(args, SessionOptions), **own})
        self.session = TranslationSession(self.bundle, options)
        self.log = EventLog(args)
        super().__init__(args)

    @staticmethod
    def add_args(parser):
        add_flags(parser)

    def to(self, device, *args, **kwargs):
        if kwargs.get("fp16"):
            print("warning: half precision is not supported, the model stays in float32", file=sys.stderr)
        self.bundle.to(device_name(device))
        self.session.reset()

    def reset(self):
        super().reset()
        self.session.reset()
        self.taken_samples = 0
        self.refused = False
        self.log.drop()

    def policy(self):
        finished = self.states.source_finished
        events = [] if self.refused else self.hear(last=finished)
        if finished:
            events += self.session.finish()
            self.states.target_finished = True
        self.log.write(events)
        return self.act(events, finished)

    def hear(self, last: bool = False) -> list:
        """Push what is new in `states.source`; last: the source ends with it. A recording with a segment that is not
        audio is refused: nothing more is said of it, an error is logged, and the run's end says so."""
        new = self.states.source[self.taken_samples :]
        rate = self.states.source_sample_rate
        self.taken_samples = len(self.states.source)
        try:
            return self.session.push(new, rate, last=last) if new else []
        except InputError as error:
            self.refused = True
            self.session.reset()  # what it made of the audio before is not finished either
            self.log.refuse(str(error))
            return []


class WordStream:
    """Growing text given out in whole words: SimulEval joins writes by spaces, so no word may be split over two."""

    def __init__(self):
        self.given = 0

    def take(self, text: str, finished: bool) -> str:
        """text: everything so far; returns the words that are complete and were not given out yet."""
        end = len(text) if finished else max(self.given, text.rfind(" "))
        words = text[self.given : end].split()
        self.given = end
        return " ".join(words)


class TextAgent(SessionAgent):
    """Writes the words of one of the session's texts."""

    def __init__(self, args):
        super().__init__(args)
        self.mark = "▁" if joins_pieces() else ""

    def reset(self):
        super().reset()
        self.words = WordStream()

    def text(self) -> str:
        raise NotImplementedError

    def act(self, events, finished):
        from simuleval.agents.actions import ReadAction, WriteAction

        words = " ".join(self.mark + word for word in self.words.take(self.text(), finished).split())
        return WriteAction(words, finished=finished) if words or finished else ReadAction()


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
