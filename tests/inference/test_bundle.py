"""Bundles: what is written is what is read, and a broken one says what is broken."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from echostream_plugin.inference.bundle import load_bundle, save_bundle
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import (
    save_tiny_bundle,
    speechlike,
    tiny_bundle,
    tiny_vocoder,
)


@pytest.fixture
def folder(tmp_path):
    return save_tiny_bundle(tmp_path, card={"name": "tiny"})


def test_round_trip(folder):
    bundle, loaded = tiny_bundle(), load_bundle(folder)
    assert loaded.config == bundle.config and loaded.units == 20 and loaded.card == {"name": "tiny"}
    assert loaded.source_dictionary == bundle.source_dictionary and loaded.target_dictionary == bundle.target_dictionary
    np.testing.assert_array_equal(loaded.cmvn_mean, bundle.cmvn_mean)
    for (name, ours), theirs in zip(loaded.model.named_parameters(), bundle.model.parameters(), strict=True):
        assert ours.dtype == torch.float32, name
        torch.testing.assert_close(ours, theirs.half().float(), atol=0, rtol=0)
    session = TranslationSession(loaded)
    session.push(speechlike(1.5), 16000)
    session.finish()
    assert session.source_text and session.target_text


def test_only_safetensors_json_and_text(folder):
    allowed = {".safetensors", ".json", ".txt"}
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == allowed
    assert all(tensor.dtype == torch.float16 for tensor in load_file(folder / "model.safetensors").values())


def test_whoever_may_read_the_configuration_may_read_the_weights(folder):
    modes = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    assert modes == {(folder / "config.json").stat().st_mode}


def test_tied_parameters_are_stored_once(folder):
    names = load_file(folder / "model.safetensors")
    assert "target_unigram_decoder.embed_tokens.weight" in names
    assert "target_unigram_decoder.output_projection.weight" not in names


def test_values_beyond_half_precision_survive(folder, tmp_path):
    bundle = load_bundle(folder)
    with torch.no_grad():
        bundle.model.source_unigram_decoder.proj.bias[3] = 1e6
    save_bundle(
        tmp_path / "again",
        bundle.model,
        source_dictionary=folder / "source.dict.txt",
        target_dictionary=folder / "target.dict.txt",
        gcmvn=folder / "gcmvn.json",
    )
    again = load_bundle(tmp_path / "again")
    assert again.model.source_unigram_decoder.proj.bias[3] == 1e6 and again.vocoder is None


def save_in_eight_bits(folder, out, parts):
    return save_bundle(
        out,
        load_bundle(folder).model,
        source_dictionary=folder / "source.dict.txt",
        target_dictionary=folder / "target.dict.txt",
        gcmvn=folder / "gcmvn.json",
        int8=parts,
    )


def test_a_part_in_eight_bits_is_read_back_to_half_a_step_of_each_row(folder, tmp_path):
    out = save_in_eight_bits(folder, tmp_path / "small", ["encoder"])
    stored = load_file(out / "model.safetensors")
    eight = {name for name, tensor in stored.items() if tensor.dtype == torch.int8}
    assert len(eight) > 5 and all(name.startswith("encoder.") and name + ".row_scales" in stored for name in eight)
    once, twice = load_bundle(folder).model.state_dict(), load_bundle(out).model.state_dict()
    for name, tensor in once.items():
        if name in eight:
            steps = tensor.flatten(1).abs().amax(1) / 127
            error = (twice[name] - tensor).flatten(1).abs().amax(1)
            assert 0 < error.max() and (error <= 0.57 * steps).all(), name  # rounded to half precision after that
            assert torch.equal(twice[name], twice[name].half().float()), name
        else:
            assert torch.equal(tensor, twice[name]), name


def test_eight_bits_of_eight_bits_lose_nothing(folder, tmp_path):
    once = save_in_eight_bits(folder, tmp_path / "once", ["encoder", "synthesizer_encoder"])
    twice = save_in_eight_bits(once, tmp_path / "twice", ["encoder", "synthesizer_encoder"])
    first, second = load_file(once / "model.safetensors"), load_file(twice / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first if first[name].dtype == torch.int8)
    read, again = load_bundle(once).model.state_dict(), load_bundle(twice).model.state_dict()
    assert all(torch.equal(read[name], again[name]) for name in read)


def test_a_part_that_is_none_is_named(folder, tmp_path):
    with pytest.raises(BundleError, match="no part encode to store in 8 bits; its parts: encoder"):
        save_in_eight_bits(folder, tmp_path / "small", ["encode"])


@pytest.mark.parametrize(
    "harm",
    [
        lambda stored, name: {name + ".row_scales": stored[name + ".row_scales"][:-1]},
        lambda stored, name: {name + ".row_scales": stored[name + ".row_scales"].int()},
        lambda stored, name: {name: stored[name].float()},
        lambda stored, name: {name + ".row_scales": stored[name + ".row_scales"] * float("nan")},
        lambda stored, name: {name + "x.row_scales": stored[name + ".row_scales"].clone()},
    ],
)
def test_scales_that_do_not_fit_are_named(folder, tmp_path, harm):
    path = save_in_eight_bits(folder, tmp_path / "small", ["encoder"]) / "model.safetensors"
    stored = load_file(path)
    name = next(name for name, tensor in stored.items() if tensor.dtype == torch.int8)
    save_file({**stored, **harm(stored, name)}, path)
    with pytest.raises(BundleError, match=f"model.safetensors.*{name}"):
        load_bundle(path.parent)


def break_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "gcmvn.json", "source.dict.txt", "target.dict.txt"]
)
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(folder)


def test_what_is_no_bundle(folder, tmp_path):
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(tmp_path / "nowhere")
    (folder / "config.json").write_text("{")
    with pytest.raises(BundleError, match="not a json file"):
        load_bundle(folder)
    (folder / "config.json").write_text('{"format": "other"}')
    with pytest.raises(BundleError, match="not an EchoStream bundle"):
        load_bundle(folder)


def test_other_version(folder):
    break_config(folder, version=99)
    with pytest.raises(BundleError, match="version 99"):
        load_bundle(folder)


def test_unknown_option(folder):
    break_config(folder, model={"encoder": {"wings": 2}})
    with pytest.raises(BundleError, match="wings"):
        load_bundle(folder)


def test_dictionary_of_another_size(folder):
    with open(folder / "target.dict.txt", "a", encoding="utf-8") as file:
        file.write("extra 1\n")
    with pytest.raises(BundleError, match="target dictionary has 25 entries, but the model's mt.vocab is 24"):
        load_bundle(folder)


def test_vocoder_of_other_units(folder):
    from echostream_plugin.vocoder import save_vocoder

    save_vocoder(tiny_vocoder(units=21), folder / "vocoder")
    with pytest.raises(BundleError, match="speaks 21 units.*has 20"):
        load_bundle(folder)


def test_broken_parameters(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name, tensor = next(iter(tensors.items()))
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(BundleError, match="missing"):
        load_bundle(folder)
    save_file({**tensors, name: torch.zeros(3, 3, 3)}, path)
    with pytest.raises(BundleError, match="another shape"):
        load_bundle(folder)
    save_file({**tensors, "wings": tensor.clone()}, path)
    with pytest.raises(BundleError, match="wings"):
        load_bundle(folder)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(BundleError, match="safetensors"):
        load_bundle(folder)


def test_bad_gcmvn(folder):
    (folder / "gcmvn.json").write_text('{"mean": [1, 2]}')
    with pytest.raises(BundleError, match="std"):
        load_bundle(folder)
    (folder / "gcmvn.json").write_text(json.dumps({"mean": [0.0] * 80, "std": [0.0] * 80}))
    with pytest.raises(BundleError, match="not positive"):
        load_bundle(folder)
