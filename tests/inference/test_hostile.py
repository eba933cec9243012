"""Bundles and options from anybody: whatever is wrong is one line that names the file and the field."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from echostream_plugin.config import ConfigError, EncoderConfig
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.options import SessionOptions, bundle_options
from echostream_plugin.inference.speak import SpeakOptions
from tests.tiny_bundle import save_tiny_bundle, tiny_bundle

HUGE = 999_999  # allowed by its bounds, but terabytes
MODEL = [  # part of the model, option, value
    *(("encoder", "layers", value) for value in (0, -1, 8.5, "2", None, True, 10**9, 10**400, [2])),
    *(("encoder", "heads", value) for value in (0, 3, 5.0)),
    *(("encoder", "input_dim", value) for value in (0, 40, HUGE, "80")),
    *(("encoder", "segment_frames", value) for value in (8.5, -8, 10**9)),
    *(("encoder", "dropout", value) for value in (-0.1, 2, "a little", float("nan"), float("inf"))),
    *(("encoder", "memory_kind", value) for value in ("mode", 7)),
    *(("encoder", "kind", value) for value in ("wings", 7, ["emformer"])),
    ("encoder", "conv_kernel", -3),
    ("encoder", "rotary", "false"),
    ("encoder", "dim", HUGE - 1),
    ("encoder", "ffn_dim", HUGE),
    ("asr", "vocab", HUGE),
    ("asr", "left_context_frames", -64),
    ("st", "left_context_frames", -1),
    ("st", "heads", 0),
    ("st", "layers", 900),
    ("mt", "layers", 0),
    ("mt", "heads", 3),
    ("mt", "ffn_dim", HUGE),
    ("unit", "upsample", 0),
    ("unit", "upsample", HUGE),
    ("unit", "causal_encoder", 1),
    ("unit", "vocab", -5),
]
CONFIG = [  # field of config.json, value
    *(("sample_rate", value) for value in (8000, "16000", None, 16000.5)),
    *(("features", value) for value in (None, [], {"kind": "other"})),
    *(("model", value) for value in ([], "big", 7)),
    *(("version", value) for value in ("1", None)),
    *(("session", value) for value in ([], "fast", 7)),
]
SESSION = [  # session option, value
    *(("chunk_ms", value) for value in (960.0, -320, 50, "320", None, 10**12)),
    *(("speech", value) for value in ("false", 0, None)),
    *(("stride_n", value) for value in (0, 1.5)),
    *(("decoding", value) for value in ("guess", 1)),
    *(("speech_factor", value) for value in (float("nan"), -1.0, "3")),
    ("lagging_k1", -1),
    ("max_tokens", 0),
    ("endpointer", "loudness"),
    ("whole_word", "yes"),
    ("wings", 2),
    ("pause_ms", True),
]
VOCODER = [  # option, value
    *(
        ("upsample_rates", value)
        for value in ([0, 4, 4, 2, 2], [-5, 4, 4, 2, 2], "five", [5.0, 4, 4, 2, 2], [[5], 4], 5)
    ),
    *(("sampling_rate", value) for value in (0, -16000, "16000", 10**9)),
    *(("num_embeddings", value) for value in (0, HUGE, 20.0)),
    ("embedding_dim", HUGE),
    ("upsample_initial_channel", HUGE),
    ("resblock_kernel_sizes", [3.5]),
    ("resblock_dilation_sizes", [[1, 0, 5]]),
    ("dur_predictor_params", "none"),
    ("dur_predictor_params", {"encoder_embed_dim": 8, "var_pred_hidden_dim": 0} | dict.fromkeys(("a", "b"), 1)),
    ("num_speakers", -1),
    ("multispkr", 3),
    *(("kind", value) for value in ("wings", 7, ["code_vocos"])),
]
DICTIONARY = [b"\xff\xfe", b"one\n", b"one two\n", b"a 1\na 1\n", b"<s> 1\n", b"", b"\x00\x01\x02"]
JSON = [b"", b"{", b"[1, 2]", b"\xff", b"[" * 100_000, b'"text"', b"nul", b"1" * 10_000]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A good bundle, and what its files hold."""
    folder = save_tiny_bundle(tmp_path_factory.mktemp("made"))
    return folder, {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(made):
    """The bundle; what a test did to it is undone."""
    folder, files = made
    yield folder
    for path in folder.rglob("*"):
        if path not in files and not path.is_dir():
            path.unlink()
    for path, content in files.items():
        if path.is_symlink():
            path.unlink()
        path.write_bytes(content)


def refused(folder, *names):
    """load_bundle says in one line what is wrong, with these names in it."""
    with pytest.raises(BundleError) as told:
        load_bundle(folder)
    message = str(told.value)
    assert "\n" not in message and len(message) < 1000, message
    assert all(name in message for name in names), message


def change(path, *keys, value):
    tree = json.loads(path.read_text())
    node = tree
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(("part", "name", "value"), MODEL)
def test_options_of_the_model(folder, part, name, value):
    change(folder / "config.json", "model", part, name, value=value)
    with pytest.raises(BundleError) as told:
        load_bundle(folder)
    message = str(told.value)
    assert "\n" not in message and len(message) < 1000 and str(folder) in message
    wrong_size = "model.safetensors" in message or "dictionary has" in message or "gcmvn" in message
    assert wrong_size or ("config.json" in message and (name in message or part in message)), message


@pytest.mark.parametrize(("name", "value"), CONFIG)
def test_the_rest_of_the_config(folder, name, value):
    change(folder / "config.json", name, value=value)
    refused(folder, "config.json", name)


@pytest.mark.parametrize(("name", "value"), SESSION)
def test_session_options(folder, name, value):
    change(folder / "config.json", "session", value={name: value})
    refused(folder, "config.json", "session", name)
    with pytest.raises(ConfigError, match=name):
        bundle_options(tiny_bundle(), **{name: "x" if value is None else value})


@pytest.mark.parametrize(("name", "value"), VOCODER)
def test_options_of_the_vocoder(folder, name, value):
    change(folder / "vocoder" / "vocoder.json", name, value=value)
    refused(folder, "vocoder")


@pytest.mark.parametrize("content", DICTIONARY)
@pytest.mark.parametrize("name", ["source.dict.txt", "target.dict.txt"])
def test_dictionaries(folder, name, content):
    (folder / name).write_bytes(content)
    refused(folder, name.split(".")[0], "dictionary" if not content else name)


@pytest.mark.parametrize("content", JSON)
@pytest.mark.parametrize("name", ["config.json", "gcmvn.json", "card.json", "vocoder/vocoder.json"])
def test_json_files(folder, name, content):
    (folder / name).write_bytes(content)
    refused(folder, name)


@pytest.mark.parametrize(
    "mean",
    [None, "many", [0.0], [0.0] * 79, ["0"] * 80, [[0.0]] * 80, [None] * 80, [True] * 80, [1e39] * 80, {"a": 1}],
)
def test_statistics(folder, mean):
    (folder / "gcmvn.json").write_text(json.dumps({"mean": mean, "std": [1.0] * 80}))
    refused(folder, "gcmvn")


@pytest.mark.parametrize("name", ["model.safetensors", "vocoder/vocoder.safetensors"])
@pytest.mark.parametrize(
    ("what", "spoilt"),
    [
        ("not finite", lambda tensor: torch.full_like(tensor, torch.nan)),
        ("not finite", lambda tensor: torch.full_like(tensor, torch.inf)),
        ("not finite", lambda tensor: torch.full_like(tensor.double(), 1e300)),
        ("int8", lambda tensor: tensor.to(torch.int8)),
        ("bool", lambda tensor: tensor.to(torch.bool)),
        ("complex64", lambda tensor: tensor.to(torch.complex64)),
        ("shape", lambda tensor: tensor.flatten()[:1].clone()),
    ],
)
def test_values_of_the_weights(folder, name, what, spoilt):
    tensors = load_file(folder / name)
    which = next(key for key, tensor in tensors.items() if tensor.dim() > 1)
    save_file({**tensors, which: spoilt(tensors[which])}, folder / name)
    refused(folder, name, which, what)


@pytest.mark.parametrize("name", ["model.safetensors", "vocoder/vocoder.safetensors"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:7],
        lambda data: b"",
        lambda data: bytes(reversed(data)),
        lambda data: b"\x80\x04pickle",
        lambda data: struct.pack("<Q", 2**62) + data[8:],
        lambda data: struct.pack("<Q", 2) + b"{}",
        lambda data: struct.pack("<Q", 4) + b"null",
    ],
)
def test_files_that_hold_no_weights(folder, name, spoil):
    (folder / name).write_bytes(spoil((folder / name).read_bytes()))
    refused(folder, name)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 100])
@pytest.mark.parametrize("name", ["source.spm.model", "target.spm.model"])
def test_piece_models(folder, name, content):
    (folder / name).write_bytes(content)
    refused(folder, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "gcmvn.json", "source.dict.txt"])
def test_links_that_go_in_circles(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to(folder / name)
    refused(folder, name)
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(folder / name)


def test_the_good_bundle_is_read(folder):
    assert load_bundle(folder).units == 20


@pytest.mark.parametrize("changes", [{"lead": float("inf")}, {"lead": "9"}, {"longest_sentence": 0}, {"lines": 1}])
def test_options_of_speaking(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        SpeakOptions(**changes)


def test_values_of_the_right_kind_are_taken():
    assert SessionOptions(whole_word=None, speech_factor=3).speech_factor == 3
    assert EncoderConfig(dropout=0, memory_size=0, conv_kernel=0, segment_frames=0).layers == 16
    with pytest.raises(ConfigError, match="layers: expected a whole number"):
        EncoderConfig(layers=np.float64(2))
