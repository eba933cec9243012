"""The encoders that are compared, each as a stream of 320 ms segments and as an offline pass."""

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from echostream_plugin.benchmark.measure import Machine, Spread, peak_bytes, step_operations, timed, weight_bytes
from echostream_plugin.config import ChunkConformerConfig, EncoderConfig
from echostream_plugin.encoders.chunk_conformer import ChunkConformerEncoder
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.modules.emformer import Emformer
from echostream_plugin.modules.native import instructions
from echostream_plugin.modules.packed import can_pack, pack_linears
from echostream_plugin.modules.recording import record_calls

SEGMENT_FRAMES = 8  # 320 ms
FEATURES = 32  # feature frames of a segment
SEGMENT_SECONDS = 0.32
CHECKPOINTED = "forward+backward, --checkpoint-activations"  # a training that keeps less


class Stream:
    """An encoder in the middle of a stream; `step` computes the next segment and changes nothing."""

    longest_seconds = float("inf")  # ages beyond are not measured: they would take minutes
    trains = True  # its offline pass is measured

    def __init__(self, name: str, module: torch.nn.Module, channels: int, frames: int, device: str):
        self.name, self.module = name, module.eval().to(device)
        self.segment = torch.randn(1, frames, channels).to(next(module.parameters()))
        self.state = None

    def advance(self):
        """Go on by one segment."""
        raise NotImplementedError

    def step(self):
        """One segment more; returns the next state."""
        raise NotImplementedError

    @property
    def state_bytes(self) -> int:
        """Size of the state."""
        return self.state.nbytes

    def floor(self, machine: Machine) -> float:
        """The least milliseconds of a segment, by weights and (where they are float32's) operations."""
        operations = 0 if "int8" in self.name else step_operations(self.module, SEGMENT_FRAMES)
        return machine.floor_ms(weight_bytes(self.module), operations)

    def offline_input(self, seconds: float) -> tuple[Tensor, Tensor]:
        """Frames [1, T, F] of an utterance and their number [1]."""
        count = round(seconds / SEGMENT_SECONDS) * self.segment.size(1)
        frames = torch.randn(1, count, self.segment.size(2), device=self.segment.device)
        return frames, torch.tensor([count], device=self.segment.device)

    def offline(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Outputs of whole utterances [B, T, D]."""
        return self.module(frames, lengths)[0]


class StatefulStream(Stream):
    """Any encoder with the three verbs of a state."""

    def __init__(self, name, module, channels, frames, device):
        super().__init__(name, module, channels, frames, device)
        self.state = module.initial_state()

    def advance(self):
        self.state = self.step()

    def step(self):
        """One segment more; returns the next state."""
        return self.module.step(self.segment, self.state)[1]


class EmformerStack(StatefulStream):
    """EchoStream's layers alone, in the form that torchaudio has."""

    def offline(self, frames, lengths):
        """Outputs of whole utterances [B, T, D]."""
        return self.module(frames, lengths)


class TorchaudioStream(Stream):
    """`torchaudio.models.Emformer.infer`, the same number of layers and sizes."""

    def __init__(self, config: EncoderConfig, device: str):
        from torchaudio.models import Emformer as TorchaudioEmformer

        module = TorchaudioEmformer(
            config.dim,
            config.heads,
            config.ffn_dim,
            config.layers,
            config.segment_frames,
            activation="silu",
            left_context_length=config.left_context_frames,
            max_memory_size=config.memory_size,
        )
        super().__init__("torchaudio Emformer.infer", module, config.dim, SEGMENT_FRAMES, device)
        self.lengths = torch.tensor([SEGMENT_FRAMES], device=device)

    def advance(self):
        self.state = self.step()

    def step(self):
        """One segment more; returns the next state."""
        # its packing writes into the lists of the state that it is given
        state = None if self.state is None else [list(layer) for layer in self.state]
        return self.module.infer(self.segment, self.lengths, state)[2]

    @property
    def state_bytes(self):
        """Size of the state's tensors."""
        return sum(tensor.nbytes for layer in self.state for tensor in layer)


class RecomputingStream(Stream):
    """StreamSpeech's agent: its Conformer over everything from the start, at every chunk."""

    longest_seconds = 60.0

    def __init__(self, name, module, channels, frames, device):
        super().__init__(name, module, channels, frames, device)
        self.state = torch.zeros(1, 0, channels, device=device)  # all features so far

    def advance(self):
        self.state = torch.cat([self.state, self.segment], dim=1)

    def step(self):
        """All features so far and one segment more; returns the outputs."""
        features = torch.cat([self.state, self.segment], dim=1)
        return self.module(features, torch.tensor([features.size(1)], device=features.device))[0]


class IncrementalConformer(StatefulStream):
    """The chunk Conformer in steps, whose state grows with the source."""

    longest_seconds = 60.0


def build_streams(config: EncoderConfig, device: str, quantize: str = "none") -> list:
    """The rows of the comparison; `config` is EchoStream's, the others take their sizes from it. quantize: 'int8' adds
    a row."""
    bins, dim = config.input_dim, config.dim
    encoder = EmformerEncoder(config).eval()
    layers = Emformer(replace(config, conv_kernel=0, rotary=False)).eval()
    conformer = ChunkConformerConfig(segment_frames=SEGMENT_FRAMES)
    if config.layers < 4:  # a quick run
        conformer = replace(conformer, layers=2, dim=64, ffn_dim=64, conv_channels=32)
    streams = []
    for form in forms(device, quantize):
        streams.append(StatefulStream(f"EchoStream encoder, {form}", in_form(encoder, form), bins, FEATURES, device))
    for form in forms(device):
        name = f"EchoStream layers in torchaudio's form, {form}"
        streams.append(EmformerStack(name, in_form(layers, form), dim, SEGMENT_FRAMES, device))
    streams += [
        TorchaudioStream(config, device),
        IncrementalConformer("StreamSpeech, incremental", ChunkConformerEncoder(conformer), bins, FEATURES, device),
        RecomputingStream("StreamSpeech, recomputed", ChunkConformerEncoder(conformer), bins, FEATURES, device),
    ]
    for stream in streams:
        stream.trains = not any(word in stream.name for word in ("recomputed", "recorded", "compiled"))
    return streams


# how a row is kept: as training has it, or as sessions use it (`inference.optimize`)
FORMS = {
    "float32": lambda module: module,
    "recorded": lambda module: module,
    "half-precision weights, recorded": lambda module: pack_linears(module, "half"),
    "half-precision weights, compiled": lambda module: pack_linears(module, "half"),
    "int8 weights, recorded": lambda module: pack_linears(module, "int8"),
    "int8 weights, compiled": lambda module: pack_linears(module, "int8"),
    "bfloat16, recorded": lambda module: module.bfloat16(),
}


def forms(device: str, quantize: str = "none") -> list:
    """Keys of FORMS that make sense on a device."""
    if device != "cpu" or not can_pack():
        return ["float32", "recorded", "bfloat16, recorded"]
    ways = ["recorded", *["compiled"] * (instructions() is not None)]
    weights = ["half-precision", *["int8"] * (quantize == "int8")]
    return ["float32", *(f"{kind} weights, {way}" for kind in weights for way in ways)]


def in_form(module: torch.nn.Module, form: str) -> torch.nn.Module:
    """A copy of an encoder in a form of FORMS."""
    module = FORMS[form](deepcopy(module))
    if "recorded" in form:
        module.record_steps()
    if "compiled" in form:
        module.compile_steps()
    return module


@torch.inference_mode()
def time_steps(stream: Stream, ages: list, runs: int, device: str) -> list:
    """A row per age in seconds: the time of the segment that begins there, bytes of state and peak memory."""
    rows, done = [], 0
    with record_calls():
        stream.step()
    for age in ages:
        if age > stream.longest_seconds:
            break
        while done < round(age / SEGMENT_SECONDS):
            stream.advance()
            done += 1
        spread: Spread = timed(stream.step, runs, device)
        state_bytes = stream.state.nbytes if isinstance(stream.state, Tensor) else stream.state_bytes
        rows.append(
            {"age_s": age, "ms": spread, "state_bytes": state_bytes, "peak_bytes": peak_bytes(stream.step, device)}
        )
    return rows


def time_offline(stream: Stream, lengths_s: list, runs: int, device: str) -> list:
    """Forward, and forward with backward (also with less kept), over utterances of so many seconds: time (of one run
    beyond 30 s) and peak memory."""
    rows = []
    for seconds in lengths_s:
        inputs = stream.offline_input(seconds)

        def forward(inputs=inputs):
            with torch.inference_mode():
                stream.offline(*inputs)

        def both(inputs=inputs):
            stream.module.zero_grad()
            stream.offline(*inputs).square().mean().backward()

        def recomputed(both=both):
            stream.module.checkpoint_activations()
            both()
            stream.module.checkpoint_activations(False)

        row, works = {"seconds": seconds}, [("forward", forward), ("forward+backward", both)]
        if hasattr(stream.module, "checkpoint_activations"):
            works.append((CHECKPOINTED, recomputed))
        for name, work in works:
            long = seconds > 30  # runs of seconds to minutes: one is enough, and warm enough
            row[name] = timed(work, 1 if long else runs, device, warmup=0 if long else 1)
            row[f"{name} peak_bytes"] = peak_bytes(work, device)
        stream.module.zero_grad()
        rows.append(row)
    return rows
