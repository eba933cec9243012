"""The comparison with StreamSpeech: its rows hear the same, and differ in what they compute again."""

import numpy as np
import pytest
import torch

from echostream_plugin.benchmark.compare import (
    LIGHT,
    RecomputedEncoder,
    build_systems,
    held_bytes,
    read_recordings,
    time_pushes,
)
from echostream_plugin.benchmark.sessions import UNITS_PER_TOKEN, blank_bias
from echostream_plugin.decoders.ctc import greedy_collapse
from tests.scripts.conftest import load_script

MARKS = "<!-- results:begin -->\nan older table\n<!-- results:end -->"


@pytest.fixture(scope="module")
def script():
    return load_script("compare_streamspeech")


@pytest.fixture(scope="module")
def sound(script):
    return read_recordings(sorted(script.SAMPLES.glob("*.wav")), 3.2)


@pytest.fixture(scope="module")
def runs(script, sound):
    systems = build_systems(*script.models(quick=True), sound)
    return {system.name: (system, time_pushes(system, sound)) for system in systems}


def test_a_quick_run_writes_the_table_into_a_page(script, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS}\nafter\n", encoding="utf-8")
    assert script.main(["--quick", "--seconds", "0.7", "1", "--write", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and " s |" in line]
    assert len([row for row in rows if "StreamSpeech, recomputed" in row]) == 2 and len(rows) == 9  # and the heading
    assert "compare_streamspeech.py --quick" in text and "an older table" not in text
    assert text.startswith("before\n") and text.endswith("after\n")


def test_wrong_flags_are_refused(script, tmp_path, capsys):
    for flags, message in (
        (["--seconds", "0.1"], "at least 0.32"),
        (["--threads", "0"], "at least 1"),
        (["--write", str(tmp_path / "none.md")], "no such page"),
    ):
        with pytest.raises(SystemExit):
            script.main(["--quick", *flags])
        assert message in capsys.readouterr().err
    assert script.main(["--quick", "--recordings", str(tmp_path / "none.wav")]) == 2
    assert "none.wav" in capsys.readouterr().err


def test_incremental_and_recomputed_transcripts_are_the_same(runs):
    """Equal weights, equal audio: what is computed again comes to the same."""
    texts = [runs[f"StreamSpeech, {how}"][1]["source_text"] for how in ("incremental", "recomputed")]
    assert texts[0] == texts[1] != ""


def test_all_write_and_speak_at_similar_rates(runs):
    for system, run in runs.values():
        assert len(run["pushes"]) == 10
        assert 0.3 * 3 * 3.2 < run["tokens"] <= 1.5 * 3 * 3.2, system.name
        assert run["units"] == UNITS_PER_TOKEN * run["tokens"] or system.decoding == "recompute"


def test_decoders_are_the_same_in_all(runs):
    """But for the row of half-precision weights, whose linear layers are packed."""
    systems = [system for system, _ in runs.values() if system.name != LIGHT]
    models = [system.bundle.model.target_unigram_decoder.state_dict() for system in systems]
    assert len(models) == 3
    for state in models[1:]:
        assert all(torch.equal(tensor, models[0][name]) for name, tensor in state.items())


def test_the_recomputed_encoder_starts_anew_at_every_push(runs, sound):
    """The work of a decoding step is that of all the source so far, and its frames are those of one pass."""
    encoder = runs["StreamSpeech, recomputed"][0].bundle.model.encoder
    assert isinstance(encoder, RecomputedEncoder)
    seen = []
    hook = encoder.encoder.conformer_layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    features, state = torch.randn(1, 96, 80), encoder.initial_state()
    with torch.inference_mode():
        for part in features.split(32, dim=1):
            none, state = encoder.step(part, state)
            frames = encoder.finish(state)
            assert none.size(1) == 0
        whole = encoder.encoder(features, torch.tensor([96]), 8)[0]
    hook.remove()
    assert [x.size(1) for x in seen] == [8, 16, 24, 24]
    assert torch.allclose(frames, whole, atol=1e-5)


def test_blanks_are_raised_until_the_rate_fits():
    logits = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += blank_bias(logits, 30)
    assert 20 <= len(greedy_collapse(logits)[0]) <= 30


def test_held_bytes_count_a_tensor_once_and_no_parameters():
    tensor = torch.zeros(100)
    assert held_bytes([tensor, (tensor[:50],), {"a": np.zeros(10, np.float32)}, torch.nn.Linear(9, 9).weight]) == 440
