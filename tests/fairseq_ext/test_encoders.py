"""Encoders under fairseq: the Whisper encoder is trained from audio files, and a new encoder needs no edit."""

import dataclasses
import json
import shutil
from argparse import ArgumentParser, Namespace
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch
from fairseq import options
from fairseq.models import ARCH_MODEL_REGISTRY

from echostream_plugin import config as configuration
from echostream_plugin.cli import main
from echostream_plugin.config import ConfigError, EncoderConfig, ModelConfig, UnitDecoderConfig, encoder_config, option
from echostream_plugin.data.whisper_weights import save_adapted
from echostream_plugin.decoders import DECODERS
from echostream_plugin.encoders import ENCODERS, encoder_of
from echostream_plugin.encoders.base import register_encoder
from echostream_plugin.encoders.emformer import EmformerEncoder
from echostream_plugin.fairseq_ext.card import as_markdown, model_card
from echostream_plugin.fairseq_ext.checkpoints import from_bundle
from echostream_plugin.fairseq_ext.flags import FLAGS, add_model_flags, config_from_args, fill_defaults, flags_of_config
from echostream_plugin.fairseq_ext.loading import export_bundle, load_checkpoint_bundle
from echostream_plugin.fairseq_ext.model import model_of
from echostream_plugin.fairseq_ext.transfer import add_first_values_flags, different_flags, start_warm
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.features import raw_features
from echostream_plugin.inference.session import TranslationSession
from tests.fairseq_ext import miniature
from tests.fairseq_ext.miniature import generate, load_task, task_arguments, train
from tests.tiny_bundle import speechlike
from tests.whisper_file import variables, write_model_bin

WHISPER = (
    "--arch echostream_whisper_tiny --inner-dim 16 --encoder-layers 3 --halve-after 2 --encoder-attention-heads 2 "
    "--encoder-ffn-embed-dim 24 --encoder-embed-dim 16 --left-context-frames 6 --decoder-embed-dim 32 "
    "--decoder-attention-heads 2 --decoder-ffn-embed-dim 64 --ctc-upsample-rate 6 --uni-encoder"
).split()


@pytest.fixture(scope="module")
def spoken(corpus, tmp_path_factory):
    """The miniature corpus with flac files instead of features, and no statistics."""
    root = tmp_path_factory.mktemp("spoken") / "corpus"
    shutil.copytree(corpus.parent, root)
    shutil.rmtree(root / "features")
    (root / "gcmvn.npz").unlink()
    np.savez(root / "gcmvn.npz", mean=np.full(80, 1e6, np.float32), std=np.ones(80, np.float32))  # to be left alone
    data = root / corpus.name
    (root / "wav").mkdir()
    for split in ("train", "dev"):
        rows = [row.split("\t") for row in (data / f"{split}.tsv").read_text(encoding="utf-8").splitlines()]
        for i, row in enumerate(rows[1:]):
            soundfile.write(root / "wav" / f"{split}_{i}.flac", speechlike(int(row[2]) / 100, seed=i), 16000)
            row[1] = f"../wav/{split}_{i}.flac"
        (data / f"{split}.tsv").write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")
    return data


@pytest.fixture
def whisper(monkeypatch):
    monkeypatch.setattr(miniature, "TINY", WHISPER)


@pytest.fixture(scope="module")
def checkpoint(spoken, tmp_path_factory):
    """After three updates from whisper's weights, which the encoder has kept."""
    folder = tmp_path_factory.mktemp("checkpoint")
    path = str(write_model_bin(folder / "model.bin"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature, "TINY", WHISPER)
        train(spoken, folder, "--load-whisper-encoder", path, "--encoder-lr-scale", "0", "--multichunk", updates=3)
    (folder / "model.bin").unlink()
    return folder / "checkpoint_last.pt"


def test_an_encoder_begins_as_whispers(checkpoint):
    saved = torch.load(checkpoint, weights_only=False)
    weight = variables()["encoder/layer_1/ffn/linear_0/weight"].astype("float16")
    given = saved["model"]["encoder.fine.layers.1.feed_forward.1.weight"]
    assert torch.equal(given, torch.from_numpy(weight).float())
    args = saved["args"] or saved["cfg"]["model"]
    assert args.load_whisper_encoder is None and args.warm_started_from.endswith("model.bin")
    assert encoder_of(saved["model"]) is ENCODERS["whisper"]


def test_a_training_goes_on_without_the_file(spoken, checkpoint, whisper, tmp_path):
    shutil.copy(checkpoint, tmp_path / "checkpoint_last.pt")
    before = torch.load(checkpoint, weights_only=False)["model"]
    gone = ("--load-whisper-encoder", "nowhere.bin", "--encoder-lr-scale", "0.5")
    after = train(spoken, tmp_path, *gone, updates=4)["model"]
    name = "encoder.fine.layers.1.feed_forward.1.weight"
    assert not torch.equal(before[name], after[name])


def test_a_scale_is_a_learning_rate_of_the_encoder_alone(spoken, whisper, tmp_path):
    models = {}
    for scale in ("0", "0.5", "1"):
        flags = ("--encoder-lr-scale", scale, "--weight-decay", "0.1", "--warmup-init-lr", "0.002")
        models[scale] = train(spoken, tmp_path / scale, *flags, updates=1)["model"]
    moved = 0
    for name, fixed in models["0"].items():
        half, whole = models["0.5"][name], models["1"][name]
        if name.startswith("encoder.") and not name.startswith(("encoder.projection.", "encoder.output_norm.")):
            assert torch.allclose(half - fixed, (whole - fixed) / 2, atol=1e-6), name
            moved += not torch.equal(whole, fixed)
        else:
            assert torch.equal(half, whole) and torch.equal(fixed, whole), name
    assert moved > 20


def test_the_first_layers_can_keep_their_values(spoken, whisper, tmp_path):
    flags = ("--freeze-encoder-layers", "1", "--warmup-init-lr", "0.002", "--dropout", "0")
    first, last = (train(spoken, tmp_path / str(n), *flags, updates=n)["model"] for n in (1, 2))
    kept = {name for name in first if torch.equal(first[name], last[name])}
    still = ("encoder.front.", "encoder.fine.layers.0.", "encoder.join.")
    assert {name for name in first if name.startswith(still[:2])} <= kept
    assert not [name for name in kept if name.startswith("encoder.coarse.layers.0.attention.")]
    with pytest.raises(ConfigError, match="layers, not 99"):
        train(spoken, tmp_path / "more", "--freeze-encoder-layers", "99", updates=1)


def test_an_encoder_goes_halfway_back_to_its_adaptation(checkpoint, tmp_path, capsys):
    """The front end and the layers; the heads, and what the features go through to them, stay."""
    encoder = load_bundle(export_bundle(tmp_path / "bundle", checkpoint)).model.encoder
    for parameter in encoder.parameters():
        parameter.data.add_(1.0)
    adapted, out = save_adapted(tmp_path / "adapted.safetensors", encoder), tmp_path / "halfway.pt"
    assert main(["average", str(checkpoint), "--halfway-to", str(adapted), "-o", str(out)]) == 0
    assert "halfway back to" in capsys.readouterr().out
    before, after = (torch.load(path, weights_only=False)["model"] for path in (checkpoint, out))
    moved = {name.split(".")[1] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"front", "fine", "coarse"} and before.keys() == after.keys()
    for name in (name for name in after if name.split(".")[1] in moved):
        assert torch.allclose(after[name], before[name] + 0.5, atol=2e-3), name

    content, refused = adapted.read_bytes(), tmp_path / "refused.pt"
    wider = type(encoder)(dataclasses.replace(encoder.config, ffn_dim=32))
    other = save_adapted(tmp_path / "other.safetensors", wider)
    wider.projection.bias.data[0] = float("nan")
    broken = save_adapted(tmp_path / "broken.safetensors", wider)
    for file, to, error in (
        (broken, refused, "broken.safetensors: projection.bias holds numbers that are not finite"),
        (other, refused, "other.safetensors: not the encoder that"),
        (tmp_path / "nowhere.safetensors", refused, "nowhere.safetensors: not an adapted encoder"),
        (adapted, adapted, "name another file"),
    ):
        assert main(["average", str(checkpoint), "--halfway-to", str(file), "-o", str(to), "--overwrite"]) == 2
        assert error in capsys.readouterr().err
    assert not refused.exists() and adapted.read_bytes() == content


def test_features_are_computed_as_they_are_loaded(spoken, whisper):
    task, dataset = load_task(spoken, "--arch", "echostream_whisper_tiny")
    assert task.features == "whisper-log-mel"
    dataset.feature_transforms.transforms = []
    samples, rate = soundfile.read(spoken.parent / "wav" / "train_0.flac", dtype="float32")
    np.testing.assert_array_equal(dataset[0][0].source.numpy(), raw_features(samples, rate, "whisper-log-mel"))


def test_statistics_of_kaldi_are_left_out(spoken, whisper):
    _, dataset = load_task(spoken, "--arch", "echostream_whisper_tiny")
    assert len(dataset.feature_transforms.transforms) == 1  # SpecAugment
    assert dataset[1][0].source.abs().max() < 5


def test_stored_features_are_refused(corpus, whisper):
    _, dataset = load_task(corpus, "--arch", "echostream_whisper_tiny")
    with pytest.raises(ConfigError, match="train_0.npy: stored features are Kaldi's.*name wav or flac files"):
        dataset[0]


def test_a_checkpoint_becomes_a_bundle_that_streams_and_a_checkpoint_again(spoken, checkpoint, tmp_path):
    folder = export_bundle(tmp_path / "bundle", checkpoint, spoken)
    bundle = load_bundle(folder)
    assert bundle.config.encoder.features == "whisper-log-mel" and (bundle.cmvn_mean == 0).all()
    direct = load_checkpoint_bundle(checkpoint, spoken)
    session = TranslationSession(bundle, speech=False, chunk_ms=160)
    events = [session.push(speechlike(2.0), 16000), session.finish()]
    assert events[-1]
    card = model_card(folder)
    assert card["architecture"] == "echostream_whisper" and card["encoder_ms"]["left_context"] == 240
    assert "--halve-after 2" in as_markdown(card) and "--inner-dim 16" in as_markdown(model_card(checkpoint))
    data = from_bundle(folder, tmp_path / "again.pt")
    again = load_checkpoint_bundle(tmp_path / "again.pt", data)
    assert again.config == bundle.config == direct.config
    name = "encoder.projection.weight"
    assert torch.equal(again.model.state_dict()[name], bundle.model.state_dict()[name])


def test_generate_hears_with_the_encoders_front_end(spoken, checkpoint, tmp_path, capsys):
    capsys.readouterr()
    generate(spoken, checkpoint, tmp_path)
    assert sum(line.startswith("A-") for line in capsys.readouterr().out.splitlines()) == 4


# ------------------------------------------------------------------------------------------------- a new encoder


@dataclasses.dataclass(frozen=True)
class ToyDecoderConfig:
    kind: str = option("toy", "which MT decoder this is")
    vocab: int = option(6000, "target dictionary size")
    dim: int = option(512, "decoder dimension")
    encoder_dim: int = option(256, "dimension of the encoder output")
    steps: tuple = option((1, 2), "of its own")


def model_card_of(config) -> dict:
    facts = dict.fromkeys(("parameters", "dictionaries", "encoder_ms", "training"), {})
    return {"name": "toy", "kind": "bundle", "architecture": "toy", "updates": None, **facts}


@pytest.fixture
def toy():
    """An encoder in one place: an Emformer whose frames are turned by fixed angles."""

    @encoder_config
    @dataclasses.dataclass(frozen=True)
    class ToyConfig(EncoderConfig):
        features: ClassVar[str] = "kaldi-fbank"
        kind: str = option("toy", "which encoder this is")
        turns: tuple = option((1, 2), "angles")

        def __post_init__(self):
            configuration.check_options(self)
            configuration.require(len(self.turns) == 2, f"turns {self.turns}: two are needed")

    @register_encoder
    class ToyEncoder(EmformerEncoder):
        Config = ToyConfig
        parameter = "turn"
        architectures = {"echostream_toy": {"encoder_layers": 2}}

        def __init__(self, config):
            super().__init__(config)
            self.turn = torch.nn.Parameter(torch.tensor(config.turns, dtype=torch.float))

    ENCODERS["toy"] = ENCODERS.pop("toy")
    yield ToyEncoder
    del ENCODERS["toy"], configuration.ENCODERS["toy"]
    ARCH_MODEL_REGISTRY.pop("echostream_toy", None)


def test_a_new_encoders_options_are_flags(toy):
    parser = ArgumentParser()
    add_model_flags(parser, "toy")
    args = parser.parse_args(["--turns", "3,4", "--memory-size", "5"])
    fill_defaults(args, "toy", **toy.architectures["echostream_toy"])
    config = config_from_args(args, 10, 11, 12, 64, "toy")
    assert config.encoder == toy.Config(turns=(3, 4), memory_size=5, layers=2, dim=config.encoder.dim)
    assert flags_of_config(config)["turns"] == (3, 4)
    assert "kind" not in flags_of_config(config)
    shown = as_markdown({**model_card_of(config), "flags": flags_of_config(config)})
    words = next(line for line in shown.splitlines() if line.startswith("    --")).split()
    assert "--turns 3,4" in " ".join(words) and parser.parse_args(words).turns == (3, 4)


def test_a_new_encoder_is_known_in_checkpoints_and_bundles(toy):
    config = ModelConfig.from_dict({"encoder": {"kind": "toy", "turns": [5, 6]}})
    assert config.encoder.turns == (5, 6) and ModelConfig.from_dict(dataclasses.asdict(config)) == config
    assert ModelConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    with pytest.raises(ConfigError, match="encoder: turns: expected tuple, got 3"):
        ModelConfig.from_dict({"encoder": {"kind": "toy", "turns": 3}})
    names = [f"encoder.{name}" for name in toy(toy.Config(layers=1)).state_dict()]
    del ENCODERS["emformer"]
    try:
        assert encoder_of(names) is toy
    finally:
        ENCODERS["emformer"] = EmformerEncoder


def test_a_new_encoder_reads_its_own_first_values(toy, monkeypatch):
    """Nothing but its class says how; the flag is there, and is used up."""
    monkeypatch.setattr(toy, "weights_flag", ("load_toy", "first values of a toy"))
    monkeypatch.setattr(toy, "load_weights", lambda encoder, path: encoder.turn.data.fill_(float(path)), raising=False)
    parser = ArgumentParser()
    add_first_values_flags(parser, toy)
    args = parser.parse_args(["--load-toy", "9"])
    model = Namespace(encoder=toy(toy.Config(layers=1)))
    start_warm(model, args, {})
    assert model.encoder.turn.tolist() == [9.0, 9.0] and (args.load_toy, args.warm_started_from) == (None, "9")


def test_what_differs_between_decoders_is_told_as_flags(monkeypatch):
    """Of the kinds that both have: an option of an MT decoder's own is no flag of another's."""
    monkeypatch.setitem(DECODERS, "toy", Namespace(Config=ToyDecoderConfig))
    one, other = (ModelConfig(unit=UnitDecoderConfig(causal_encoder=causal)) for causal in (True, False))
    assert different_flags(one, other) == {"uni_encoder": (True, False)}
    small = ModelConfig(mt=ToyDecoderConfig(steps=(1, 2)))
    assert different_flags(small, ModelConfig(mt=ToyDecoderConfig(steps=(3,)))) == {"mt_steps": ((1, 2), (3,))}
    assert different_flags(one, small) == {"mt_decoder": ("transformer", "toy")}


def test_a_new_encoder_is_a_model_of_fairseq(toy):
    model = model_of(toy)
    assert model.encoder_kind == "toy" and model.__name__ == "ToyEncoderModel"
    args = Namespace()
    fill_defaults(args, "toy")
    assert args.turns == (1, 2) and model.defaults == {"encoder_layers": 2}


def test_flags_of_the_encoders_are_those_they_had(corpus):
    """Names that scripts and checkpoints know."""
    emformer = {
        "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "chunk_size",
        "left_context_frames", "right_context_frames", "memory_size", "memory_kind", "tanh_on_memory", "rotary",
        "encoder_conv_kernel", "subsampling_channels",
    }  # fmt: skip
    conformer = {
        "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "chunk_size",
        "conv_channels", "depthwise_conv_kernel_size",
    }  # fmt: skip
    for kind, own in (("emformer", emformer), ("chunk_conformer", conformer)):
        config = ModelConfig(encoder=ENCODERS[kind].Config())
        others = {"chunk_size", "dropout", "attention_dropout", "activation_dropout", "encoder_embed_dim"}
        parts = {flag: options for flag, options in FLAGS.items() if not options[0].startswith("encoder.")}
        assert set(flags_of_config(config)) - set(parts) - others == own - others
    architectures = {"echostream", "echostream_base", "echostream_tiny", "streamspeech", "echostream_whisper"}
    assert architectures < set(ARCH_MODEL_REGISTRY)
    parser = options.get_training_parser("speech_to_speech_ctc")
    args = options.parse_args_and_arch(parser, [*task_arguments(corpus), "--arch", "echostream", "--chunk-size", "999"])
    assert config_from_args(args, 9, 9, 15, 64).encoder.segment_frames == 0
