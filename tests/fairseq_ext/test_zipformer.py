"""The Zipformer under fairseq: trained, generated with, bundled, its decoders a warm start, its optimizer resumed."""

import json
import sys
from argparse import ArgumentParser

import pytest
import soundfile
import torch
from fairseq.models import ARCH_MODEL_REGISTRY

from echostream_plugin.config import ConfigError
from echostream_plugin.encoders import ENCODERS, encoder_of
from echostream_plugin.encoders.zipformer import ZipformerEncoder
from echostream_plugin.fairseq_ext.card import as_markdown, model_card
from echostream_plugin.fairseq_ext.checkpoints import from_bundle
from echostream_plugin.fairseq_ext.flags import add_model_flags, config_from_args, fill_defaults, flags_of_config
from echostream_plugin.fairseq_ext.loading import export_bundle, load_checkpoint_bundle
from echostream_plugin.fairseq_ext.scaled_adam import Eden, EdenConfig, FairseqScaledAdam, ScaledAdamConfig
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.session import TranslationSession
from tests.fairseq_ext import miniature
from tests.fairseq_ext.miniature import generate, train
from tests.tiny_bundle import speechlike

ZIPFORMER = (
    "--arch echostream_zipformer_tiny --encoder-layers 1,1,1,1,1,1 --stack-dims 12,16,16,16,16,16 "
    "--encoder-embed-dim 16 --encoder-ffn-embed-dim 16,16,16,16,16,16 --encoder-attention-heads 2,2,2,2,2,2 "
    "--encoder-conv-kernel 5,5,5,5,5,5 --unmasked-dims 8,8,8,8,8,8 --query-dim 4 --value-dim 4 "
    "--left-context-frames 8 --memory-size 2 --translation-decoder-layers 1 --decoder-layers 1 --decoder-embed-dim 32 "
    "--decoder-attention-heads 2 --decoder-ffn-embed-dim 64 --ctc-upsample-rate 6 --uni-encoder"
).split()
SCALED = (
    "--optimizer scaled_adam --lr 0.045 --lr-scheduler eden --clip-norm 0 --balancers --whiten --no-scaled-scores "
    "--left-context-choices 8,16,0"
).split()
SIZES = {"": (63_944_070, 512), "_medium": (63_944_070, 512), "_small": (21_720_098, 256), "_tiny": (None, 192)}


@pytest.fixture(autouse=True)
def zipformer(monkeypatch):
    monkeypatch.setattr(miniature, "TINY", ZIPFORMER)


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    """After three updates in chunks of all sizes, with every training part."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature, "TINY", ZIPFORMER)
        train(corpus, folder, "--multichunk", *SCALED, updates=3)
    return folder / "checkpoint_last.pt"


def test_architectures_are_registered_and_of_icefalls_sizes():
    for name, (count, dim) in SIZES.items():
        name = f"echostream_zipformer{name}"
        assert name in ARCH_MODEL_REGISTRY
        parser = ArgumentParser()
        add_model_flags(parser, "zipformer")
        args = parser.parse_args([])
        fill_defaults(args, "zipformer", **ZipformerEncoder.architectures[name])
        config = config_from_args(args, 10, 11, 12, 64, "zipformer")
        assert config.encoder.dim == dim and config.encoder.scaled_scores
        assert flags_of_config(config)["stack_dims"] == config.encoder.stack_dims
        if count:
            with torch.device("meta"):
                stacks = ZipformerEncoder(config.encoder).encoder
            assert sum(tensor.numel() for tensor in stacks.state_dict().values()) == count


def test_a_training_moves_every_part_and_saves_it(checkpoint):
    saved = torch.load(checkpoint, weights_only=False)
    assert encoder_of(saved["model"]) is ENCODERS["zipformer"]
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    moved = saved["model"]["encoder.encoder.encoders.1.out_combiner.bypass_scale"]
    assert (moved != 0.5).any()
    groups = saved["last_optimizer_state"]["param_groups"]
    assert groups[0]["steps"] == 3 and len(groups[0]["norms"]) == 2


def test_eden_counts_epochs_from_the_first():
    optimizer = FairseqScaledAdam(ScaledAdamConfig(lr=[0.04]), [torch.nn.Parameter(torch.ones(3))])
    assert optimizer.optimizer.defaults["betas"] == (0.9, 0.98) and not optimizer.supports_flat_params
    eden = Eden(EdenConfig(lr=[0.04]), optimizer)
    assert eden.step_begin_epoch(1) == eden.step_update(0) == optimizer.get_lr() == pytest.approx(0.02)
    assert eden.step_update(500) == pytest.approx(0.04 * (1 + (500 / 7500) ** 2) ** -0.25)
    late = eden.step_begin_epoch(8)
    assert late == pytest.approx(0.04 * (1 + (500 / 7500) ** 2) ** -0.25 * (1 + 2**2) ** -0.25)
    assert eden.step(8, 1.0) == late and eden.best == 1.0


def test_a_training_goes_on(corpus, checkpoint, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "checkpoint_last.pt").write_bytes(checkpoint.read_bytes())
    saved = train(corpus, folder, "--multichunk", *SCALED, updates=4)
    assert saved["last_optimizer_state"]["param_groups"][0]["steps"] == 4


def test_plain_adam_and_a_warm_start_of_the_decoders(corpus, checkpoint, tmp_path):
    before = torch.load(checkpoint, weights_only=False)["model"]
    flags = ("--load-streamspeech-decoders", str(checkpoint), "--lr", "1e-9", "--disable-validation")
    after = train(corpus, tmp_path, *flags, updates=1)["model"]
    name = "target_unigram_decoder.layers.0.fc1.weight"
    torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    name = "encoder.encoder.encoders.0.layers.0.feed_forward1.in_proj.weight"
    assert not torch.allclose(after[name], before[name], atol=1e-3)


def test_chunks_that_do_not_fit_are_refused(corpus, tmp_path):
    with pytest.raises(ConfigError, match="--multichunk-sizes 8,10: a segment of 10: segment_frames 10"):
        train(corpus, tmp_path, "--multichunk", "--multichunk-sizes", "8,10", "--disable-validation", updates=1)
    with pytest.raises(ConfigError, match="encoder: segment_frames 7: a chunk of this encoder is a multiple of 4"):
        train(corpus, tmp_path, "--chunk-size", "7", "--disable-validation", updates=1)


def test_a_checkpoint_becomes_a_bundle_that_streams_and_a_checkpoint_again(corpus, checkpoint, tmp_path):
    folder = export_bundle(tmp_path / "bundle", checkpoint, corpus)
    bundle = load_bundle(folder)
    session = TranslationSession(bundle, speech=False, chunk_ms=160)
    assert [*session.push(speechlike(1.0), 16000), *session.finish()]
    card = model_card(folder)
    assert card["architecture"] == "echostream_zipformer"
    assert card["encoder_ms"] == {"segment": 320, "left_context": 320, "right_context": 0, "memory": 640}
    assert "--stack-dims 12,16,16,16,16,16" in as_markdown(card).replace("(", "").replace(")", "").replace(", ", ",")
    data = from_bundle(folder, tmp_path / "again.pt")
    again = load_checkpoint_bundle(tmp_path / "again.pt", data)
    assert again.config == bundle.config == load_checkpoint_bundle(checkpoint, corpus).config
    state = again.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in bundle.model.state_dict().items())


@pytest.mark.parametrize("agent", ["echostream_s2tt_agent", "echostream_asr_agent"])
def test_agents_run_with_it(corpus, checkpoint, tmp_path, monkeypatch, agent):
    simuleval = pytest.importorskip("simuleval.utils.agent")
    from simuleval.evaluator import build_evaluator

    folder = export_bundle(tmp_path / "bundle", checkpoint, corpus)
    soundfile.write(tmp_path / "a.wav", speechlike(1.3, seed=3), 16000)
    (tmp_path / "wavs").write_text(f"{tmp_path / 'a.wav'}\n")
    (tmp_path / "refs").write_text("a b c\n")
    flags = ["--agent", str(miniature.ROOT / "agent" / f"{agent}.py"), "--bundle", str(folder), "--source-segment-size",
             "320", "--source", str(tmp_path / "wavs"), "--target", str(tmp_path / "refs"), "--output", str(tmp_path),
             "--no-progress-bar", "--no-scoring", "--max-len", "6"]  # fmt: skip
    simuleval.EVALUATION_SYSTEM_LIST.clear()
    monkeypatch.setattr(sys, "argv", ["simuleval", *flags])
    system, args = simuleval.build_system_args()
    build_evaluator(args)(system)
    (instance,) = map(json.loads, (tmp_path / "instances.log").read_text().splitlines())
    assert instance["source_length"] == pytest.approx(1300, abs=1)


def test_generate(corpus, checkpoint, tmp_path, capsys):
    capsys.readouterr()
    generate(corpus, checkpoint, tmp_path)
    assert sum(line.startswith("A-") for line in capsys.readouterr().out.splitlines()) == 4
