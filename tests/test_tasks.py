"""StreamSpeech's eight tasks from one model, by the commands that a user types, with either encoder."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from echostream_plugin.cli import main
from echostream_plugin.config import ChunkConformerConfig
from echostream_plugin.inference.bundle import load_bundle, save_bundle
from echostream_plugin.model import S2STModel
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_bundle, tiny_vocoder

ROOT = Path(__file__).resolve().parents[1]
AUDIO = speechlike(2.3, seed=3)
AGENTS = {"asr": "echostream_asr_agent.py", "s2tt": "echostream_s2tt_agent.py", "s2st": "echostream_agent.py"}
FLAGS = {"asr": ["--no-translate"], "s2tt": ["--no-speech"], "s2st": []}


def save_conformer_bundle(folder, **unit):
    """The tiny bundle with StreamSpeech's encoder and unit decoder (one constant position)."""
    save_tiny_bundle(folder)
    tiny = tiny_bundle()
    encoder = ChunkConformerConfig(dim=16, layers=2, heads=2, ffn_dim=32, conv_channels=16)
    unit = dataclasses.replace(tiny.config.unit, time_positions=False, offset_embedding=False, **unit)
    torch.manual_seed(0)
    model = S2STModel(dataclasses.replace(tiny.config, encoder=encoder, unit=unit)).eval()
    files = {"source_dictionary": "source.txt", "target_dictionary": "target.txt", "gcmvn": "gcmvn.npz"}
    files = {name: folder / file for name, file in files.items()}
    return save_bundle(folder / "conformer", model, vocoder=tiny_vocoder(), **files)


@pytest.fixture(scope="module", params=["echostream", "streamspeech", "streamspeech offline"])
def folder(request, tmp_path_factory):
    """A bundle folder, the recording beside it."""
    folder = tmp_path_factory.mktemp("tasks")
    soundfile.write(folder / "in.wav", AUDIO, 16000, subtype="FLOAT")
    (folder / "wavs.txt").write_text(f"{folder / 'in.wav'}\n")
    (folder / "refs.txt").write_text("a b c\n")
    if request.param == "echostream":
        return save_tiny_bundle(folder)
    return save_conformer_bundle(folder, causal_encoder=request.param == "streamspeech")


def decoding(folder) -> list:
    """A model without --uni-encoder can only speak what it computes again."""
    return [] if load_bundle(folder).config.unit.causal_encoder else ["--decoding", "recompute"]


def translated(folder, out, *flags):
    """The events of `echostream translate`."""
    common = ["-o", str(out), "--bundle", str(folder), "--max-tokens", "6", "--quiet", *decoding(folder)]
    assert main(["translate", str(folder.parent / "in.wav"), *common, *flags]) == 0
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", FLAGS)
def test_recordings_simultaneously_and_offline(folder, tmp_path, task):
    """Offline everything is decided at the end; simultaneously the transcript grows before."""
    wanted = {"source_text", *({"target_text"} if task != "asr" else ()), *({"speech"} if task == "s2st" else ())}
    simultaneous = translated(folder, tmp_path / "simultaneous", *FLAGS[task], "--chunk-ms", "320")
    offline = translated(folder, tmp_path / "offline", *FLAGS[task], "--chunk-ms", "0")
    end_ms = 1000 * len(AUDIO) / 16000
    assert {event["kind"] for event in offline} == {event["kind"] for event in simultaneous} == wanted | {"finished"}
    assert {event["source_ms"] for event in offline} == {end_ms}
    assert min(event["source_ms"] for event in simultaneous) < end_ms
    assert (soundfile.info(tmp_path / "offline" / "speech.wav").frames > 0) == (task == "s2st")


def outcome(events) -> tuple:
    """The final texts and all units."""
    texts = {event["kind"]: event["text"] for event in events if "text" in event}
    return texts, [unit for event in events for unit in event.get("units", ())]


@pytest.mark.parametrize("task", AGENTS)
def test_agents_offline(folder, tmp_path, task, monkeypatch):
    """`--chunk-ms 0` is what the command line says; with a source segment that is longer than the recording, too, all
    comes at the end (but the policy may write before it, at the same time, so --max-len allows more tokens)."""
    simuleval_agent = pytest.importorskip("simuleval.utils.agent")
    from simuleval.evaluator import build_evaluator

    offline = translated(folder, tmp_path / "translated", *FLAGS[task], "--chunk-ms", "0")
    for name, flags in (("chunk", ["--source-segment-size", "320"]), ("segment", ["--source-segment-size", "99960"])):
        out = tmp_path / name
        command = [
            *("simuleval", "--agent", str(ROOT / "agent" / AGENTS[task]), "--bundle", str(folder), "--max-len", "6"),
            *("--source", str(folder.parent / "wavs.txt"), "--target", str(folder.parent / "refs.txt"), *flags),
            *("--output", str(out), "--extra-output-dir", str(out / "extra"), "--no-scoring", "--no-progress-bar"),
            *decoding(folder),
        ]
        monkeypatch.setattr(sys, "argv", command + (["--chunk-ms", "0"] if name == "chunk" else []))
        simuleval_agent.EVALUATION_SYSTEM_LIST.clear()
        system, args = simuleval_agent.build_system_args()
        build_evaluator(args)(system)
        instance = json.loads((out / "instances.log").read_text())
        assert set(instance["delays"]) == {1000 * len(AUDIO) / 16000} and instance["prediction"]
        events = [json.loads(line) for line in (out / "extra" / "events.jsonl").read_text().splitlines()]
        if name == "chunk":
            assert outcome(events) == outcome(offline)
        else:
            for kind, text in outcome(events)[0].items():
                assert text.startswith(outcome(offline)[0][kind]) or kind == "source_text"


def test_text_offline_and_word_by_word(folder, tmp_path, capsys):
    """A model that looks ahead says so when it is asked for single words."""
    spoken = []
    for flag in ("--no-word-by-word", "--word-by-word"):
        out = tmp_path / f"{flag}.wav"
        done = main(["speak", "t0y2 t3 t11y7y1. t8 t5y0", "-o", str(out), "--bundle", str(folder), flag])
        if flag == "--word-by-word" and decoding(folder):
            assert done == 2 and "not causal" in capsys.readouterr().err
            continue
        assert done == 0
        spoken.append(soundfile.read(out)[0])
    assert len(spoken[0]) > 0
    for other in spoken[1:]:
        np.testing.assert_allclose(spoken[0], other, atol=1e-4 + 1 / 32768)


def test_transcribe_prints_the_transcript(folder, tmp_path, capsys):
    command = ["transcribe", str(folder.parent / "in.wav"), "--bundle", str(folder), "--chunk-ms"]
    wanted = [event for event in translated(folder, tmp_path, "--no-translate", "--chunk-ms", "0")]
    capsys.readouterr()
    assert main([*command, "0"]) == 0
    assert capsys.readouterr().out == wanted[-2]["text"] + "\n"
    assert main([*command, "320", "--live"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 1
    assert main([*command, "320", "--pause-ms", "400"]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["transcribe", str(tmp_path / "none.wav")]) == 2 and "no such audio" in capsys.readouterr().err
