"""SpeechLLM-XL under fairseq: it learns, its loss is what it says, any encoder will do, bad flags are named."""

import math
import shutil

import numpy as np
import pytest
import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY

from echostream_plugin.config import ConfigError
from echostream_plugin.constants import EOS, PAD
from echostream_plugin.decoders.speechllm import SpeechLLMDecoder
from echostream_plugin.decoders.speechllm.alignment import chunks_of_tokens, token_ends
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.card import as_markdown, model_card
from echostream_plugin.fairseq_ext.checkpoints import from_bundle
from echostream_plugin.fairseq_ext.loading import export_bundle
from echostream_plugin.fairseq_ext.speechllm.model import architecture_name, encoder_of_architecture
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.chunk_writer import ChunkWriter
from echostream_plugin.inference.events import SourceText, TargetText
from echostream_plugin.inference.session import TranslationSession
from echostream_plugin.inference.work import alone
from tests.fairseq_ext import miniature
from tests.fairseq_ext.miniature import ROOT, run_cli

ENCODER = (
    "--encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --encoder-attention-heads 2 "
    "--subsampling-channels 4 --left-context-frames 8 --memory-size 2 --encoder-conv-kernel 5 --chunk-size 4"
).split()
DECODER = (
    "--llm-layers 2 --llm-dim 32 --llm-heads 2 --llm-ffn-dim 64 --llm-chunk-frames 8 --llm-context-chunks 2"
).split()
TINY = ["--arch", "speechllm_xl_tiny", *ENCODER, *DECODER]
CRITERION = ["--criterion", "speechllm_ctc"]


def task_arguments(corpus, target="source_text"):
    return [
        str(corpus), "--user-dir", str(ROOT / "echostream_plugin"), "--task", "speech_to_text_chunks",
        "--target", target, "--config-yaml", "config_gcmvn.yaml", "--multitask-config-yaml", "config_mtl.yaml",
    ]  # fmt: skip


def train(corpus, save_dir, *extra, updates, target="source_text", arch=TINY):
    """Run fairseq-train; the last checkpoint's content."""
    run_cli(
        "fairseq_cli.train",
        [
            *task_arguments(corpus, target), *arch, *CRITERION, "--dropout", "0", "--attention-dropout", "0",
            "--relu-dropout", "0", "--train-subset", "train", "--valid-subset", "dev", "--save-dir", str(save_dir),
            "--no-epoch-checkpoints", "--optimizer", "adam", "--lr", "0.003", "--lr-scheduler", "inverse_sqrt",
            "--warmup-updates", "30", "--clip-norm", "1.0", "--max-tokens", "600", "--seed", "1", "--cpu",
            "--num-workers", "0", "--max-update", str(updates), "--log-format", "simple", *extra,
        ],
    )  # fmt: skip
    return torch.load(save_dir / "checkpoint_last.pt", map_location="cpu", weights_only=False)


def load_task(corpus, *extra, target="source_text", arch=TINY):
    """The task, its training set, a model and a criterion."""
    parser = options.get_training_parser(default_task="speech_to_text_chunks")
    args = options.parse_args_and_arch(parser, [*task_arguments(corpus, target), *arch, *CRITERION, *extra])
    task = tasks.setup_task(args)
    task.load_dataset("train")
    torch.manual_seed(0)
    model = task.build_model(task.args)
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion)
    return task, task.datasets["train"], model, criterion


def texts(corpus, column):
    rows = [row.split("\t") for row in (corpus / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    return [row[column].replace(" ", "").replace("▁", " ").strip() for row in rows]


@pytest.fixture(scope="module", params=["source_text", "target_text"])
def learnt(corpus, tmp_path_factory, request):
    """A text, and a checkpoint that has learnt to write it of the twelve utterances."""
    folder = tmp_path_factory.mktemp(request.param)
    flags = ("--ctc-only-updates", "40", "--disable-validation")
    train(corpus, folder, *flags, updates=160, target=request.param)
    return request.param, folder / "checkpoint_last.pt"


def test_it_learns_and_generates(corpus, learnt, tmp_path, capsys):
    target, checkpoint = learnt
    capsys.readouterr()
    run_cli(
        "fairseq_cli.generate",
        [*task_arguments(corpus, target), "--path", str(checkpoint), "--gen-subset", "train", "--beam", "2",
         "--max-tokens", "2000", "--cpu", "--results-path", str(tmp_path), "--post-process", "sentencepiece"],
    )  # fmt: skip
    lines = [line.split("\t") for line in (tmp_path / "generate-train.txt").read_text(encoding="utf-8").splitlines()]
    found = {int(line[0][2:]): line[2].strip() for line in lines if line[0].startswith("D-")}
    wanted = {int(line[0][2:]): line[1].strip() for line in lines if line[0].startswith("T-")}
    assert wanted == dict(enumerate(texts(corpus, 3 if target == "source_text" else 4)))
    assert sum(found[i] == wanted[i] for i in wanted) >= 10
    heads = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("A-") for line in heads) == sum(line.startswith("S-") for line in heads) == 12


def test_a_bundle_of_it_writes_as_the_generator(corpus, learnt, tmp_path):
    """Its session options are in it; texts come chunk by chunk, and are those of the whole."""
    target, checkpoint = learnt
    bundle = load_bundle(export_bundle(tmp_path / "bundle", checkpoint))
    translates = target == "target_text"
    assert bundle.session == {"chunk_ms": 160, "decoding": "chunks", "speech": False, "translate": translates}
    task, dataset, _, _ = load_task(corpus, target=target)
    features = dataset[2][0].source
    writer = ChunkWriter(bundle.model)
    frames = bundle.model.encoder(features[None], torch.tensor([len(features)]))[0]
    writer.hear(frames)
    alone(writer.finish())
    spoken = features.numpy() * bundle.cmvn_std + bundle.cmvn_mean
    session = TranslationSession(bundle)
    session._accept_rate(16000)  # what is pushed are features: this corpus has no sound
    events = []
    for piece in np.array_split((spoken - bundle.cmvn_mean) / bundle.cmvn_std, 7):
        alone(session._stream.hear(piece.astype(np.float32), events))
    alone(session._stream.finish(events))
    kind = TargetText if translates else SourceText
    grown = [event.text for event in events if isinstance(event, kind)]
    dictionary = bundle.target_dictionary if translates else bundle.source_dictionary
    assert grown[-1] == dictionary.text(writer.tokens) and len(grown) > 1
    assert all(later.startswith(earlier) for earlier, later in zip(grown, grown[1:], strict=False))


def losses(corpus, *extra, updates=0, training=True, arch=TINY):
    """The loss of a batch, its size, what is logged, and what it is made of."""
    _, dataset, model, criterion = load_task(corpus, "--dropout", "0", *extra, arch=arch)
    model.set_num_updates(updates)
    criterion.train(training), model.eval()
    sample = dataset.collater([dataset[i] for i in range(4)])
    return *criterion(model, sample), model, sample


def test_the_loss_is_cross_entropy_and_weighed_ctc(corpus):
    loss, size, logging, model, sample = losses(corpus, "--ctc-weight", "0.5")
    net_input, text = sample["net_input"], sample["multitask"]["source_unigram"]["target"]
    frames, lengths = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
    logits = model.source_unigram_decoder(frames)
    ends = token_ends(logits.log_softmax(-1), lengths, text)
    chunks = chunks_of_tokens(ends, lengths, 8)
    found, tokens = model.chunk_decoder(frames, lengths, text, chunks)
    entropy = torch.nn.functional.cross_entropy(found, tokens, reduction="sum")
    ctc = logging["source_unigram_loss"] + logging["ctc_target_unigram_loss"]
    assert size == len(tokens) == int(text.ne(PAD).sum()) + int((-(-lengths // 8)).sum())
    assert int(tokens.eq(EOS).sum()) == int((-(-lengths // 8)).sum())
    assert float(loss) == pytest.approx(float(entropy + 0.5 * ctc), rel=1e-5)
    loss.backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)
    assert model.chunk_decoder.adapter.weight.grad.abs().sum() > 0


def test_ctc_learns_alone_at_first(corpus):
    loss, size, logging, model, sample = losses(corpus, "--ctc-only-updates", "3", updates=2)
    assert size == int(sample["multitask"]["source_unigram"]["target"].ne(PAD).sum()) and "llm_loss" not in logging
    assert float(loss) == pytest.approx(float(logging["source_unigram_loss"] + logging["ctc_target_unigram_loss"]))
    loss.backward()
    assert all(not each.grad.any() for each in model.chunk_decoder.parameters())
    assert "llm_loss" in losses(corpus, "--ctc-only-updates", "3", updates=3)[2]
    assert "llm_loss" in losses(corpus, "--ctc-only-updates", "3", updates=2, training=False)[2]  # validation has all


def test_a_delay_moves_tokens_to_later_chunks(corpus, monkeypatch):
    seen = []
    real = SpeechLLMDecoder.forward
    monkeypatch.setattr(SpeechLLMDecoder, "forward", lambda *given: seen.append(given[4]) or real(*given))
    for delay in (0, 8, 800):
        losses(corpus, "--alignment-delay", str(delay))
    now, one_later, at_the_end = seen
    last = now.max(1, keepdim=True).values.clamp(min=0)
    assert (one_later >= now).all() and (one_later > now).any() and (one_later - now).max() == 1
    assert (at_the_end >= last).all() and (at_the_end == at_the_end[:, :1]).all()


def test_validation_says_how_well_the_aligning_head_hears(corpus):
    *_, logging, _, _ = losses(corpus, training=False)
    assert logging["ctc_words"] > 0 and logging["ctc_wer"] > 0 and logging["llm_tokens"] > 0
    assert "ctc_words" not in losses(corpus)[2]


def test_every_encoder_has_its_architectures():
    names = {architecture_name(name): encoder for encoder in ENCODERS.values() for name in encoder.architectures}
    assert {"speechllm_xl", "speechllm_xl_tiny", "speechllm_xl_zipformer_small"} <= set(names)
    assert architecture_name("streamspeech") == "speechllm_xl_streamspeech"
    for name, encoder in names.items():
        assert ARCH_MODEL_REGISTRY[name].encoder_kind == encoder.Config.kind
        assert encoder_of_architecture(name) is encoder


def test_it_trains_over_a_zipformer(corpus):
    zipformer = (
        "--arch speechllm_xl_zipformer_tiny --chunk-size 8 --encoder-layers 1,1,1,1,1,1 --encoder-embed-dim 16 "
        "--stack-dims 16,16,16,16,16,16 --unmasked-dims 8,8,8,8,8,8 --encoder-ffn-embed-dim 16,16,16,16,16,16 "
        "--encoder-attention-heads 2,2,2,2,2,2 --query-dim 4 --value-dim 4"
    ).split()
    loss, _, logging, model, _ = losses(corpus, arch=[*zipformer, *DECODER])
    assert model.config.encoder.kind == "zipformer" and math.isfinite(float(loss)) and logging["llm_tokens"] > 0


def test_first_values_come_from_a_bundle(corpus, learnt, tmp_path):
    """Encoder and heads; heads of another dictionary begin anew; another encoder is refused with the flags it needs."""
    target, checkpoint = learnt
    folder = export_bundle(tmp_path / "bundle", checkpoint)
    given = load_bundle(folder).model.state_dict()
    _, _, model, _ = load_task(corpus, "--load-bundle-encoder", str(folder), target=target)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, given[name]) is not name.startswith("chunk_decoder."), name
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    dictionary = tmp_path / "corpus" / "src_unigram" / "dict.txt"
    dictionary.write_text(dictionary.read_text(encoding="utf-8") + "▁five 1\n", encoding="utf-8")
    _, _, model, _ = load_task(tmp_path / "corpus" / corpus.name, "--load-bundle-encoder", str(folder), target=target)
    own = model.state_dict()
    assert torch.equal(own["ctc_target_unigram_decoder.proj.weight"], given["ctc_target_unigram_decoder.proj.weight"])
    assert len(own["source_unigram_decoder.proj.weight"]) == len(given["source_unigram_decoder.proj.weight"]) + 1
    with pytest.raises(ConfigError, match="another encoder. Fix: train with --encoder-layers 2$"):
        load_task(corpus, "--load-bundle-encoder", str(folder), "--encoder-layers", "3", target=target)
    with pytest.raises(ConfigError, match="--load-bundle-encoder .*nowhere: no such bundle folder"):
        load_task(corpus, "--load-bundle-encoder", "nowhere", target=target)
    with pytest.raises(ConfigError, match="bundle: writes text in chunks; .*--load-bundle-encoder"):
        from_bundle(folder, tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match="--load-streamspeech-decoders .*: it writes text in chunks"):
        miniature.train(corpus, tmp_path / "other", "--load-streamspeech-decoders", str(checkpoint), updates=1)


def test_a_checkpoint_has_a_card(learnt):
    card = model_card(learnt[1])
    assert card["architecture"] == "speechllm_xl_tiny" and card["parameters"]["chunk decoder"] > 10_000
    assert card["flags"]["llm_chunk_frames"] == 8 and "units" not in card["dictionaries"]
    assert "--llm-chunk-frames 8" in as_markdown(card)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--llm-chunk-frames", "6"), "llm: chunk_frames 6 must be a multiple of 4"),
        (("--llm-chunk-frames", "12", "--chunk-size", "8"), "llm.chunk_frames 12 .* encoder.segment_frames 8"),
        (("--llm-dim", "33"), "llm: dim 33 must be divisible by heads 2"),
        (("--llm-dim", "30", "--llm-heads", "6"), "llm: heads 6: .* must be even"),
        (("--ctc-weight", "-1"), "--ctc-weight -1.0: must not be negative"),
        (("--alignment-delay", "-2"), "--alignment-delay -2: must not be negative"),
    ],
)
def test_bad_flags_are_named(corpus, flags, message):
    with pytest.raises(ConfigError, match=message):
        load_task(corpus, *flags)


def test_a_checkpoint_writes_the_text_that_it_was_trained_for(corpus, learnt, tmp_path):
    target, checkpoint = learnt
    other = {"source_text": "target_text", "target_text": "source_text"}[target]
    with pytest.raises(ConfigError, match=f"--target {other}: the model was trained to write {target}"):
        run_cli(
            "fairseq_cli.generate",
            [*task_arguments(corpus, other), "--path", str(checkpoint), "--gen-subset", "train", "--cpu",
             "--max-tokens", "2000"],
        )  # fmt: skip


def test_its_architecture_needs_its_task(corpus):
    miniature_task = [*miniature.task_arguments(corpus), *TINY, *miniature.CRITERION]
    parser = options.get_training_parser(default_task="speech_to_speech_ctc")
    args = options.parse_args_and_arch(parser, miniature_task)
    with pytest.raises(ConfigError, match="--arch speechllm_xl_tiny writes text: .*--task speech_to_text_chunks"):
        tasks.setup_task(args).build_model(args)
