"""A StreamSpeech checkpoint starts a training: its decoders as first values, its encoder as a teacher."""

import json
import logging
import shutil
from argparse import Namespace

import pytest
import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from echostream_plugin.config import ConfigError
from echostream_plugin.fairseq_ext.transfer import EncoderTeacher, distill_loss, load_decoders
from echostream_plugin.model import WaitKLags
from tests.fairseq_ext import miniature
from tests.fairseq_ext.miniature import load_task, run_cli, task_arguments, train
from tests.fairseq_ext.test_streamspeech_parity import PARITY, build

PARTS = ("source_unigram_decoder", "ctc_target_unigram_decoder", "target_unigram_decoder", "synthesizer_encoder")
# an echostream that the small StreamSpeech of the parity data fits into
STUDENT = (
    "--decoder-layers 2 --translation-decoder-layers 2 --synthesizer-encoder-layers 1 --decoder-attention-heads 4 "
    "--ctc-upsample-rate 5 --target-code-size 50"
).split()


@pytest.fixture(scope="module")
def streamspeech(tmp_path_factory):
    """A checkpoint as StreamSpeech's fairseq-train saves it, with the random weights of the parity data."""
    args, _ = original_model()
    path = tmp_path_factory.mktemp("streamspeech") / "checkpoint_best.pt"
    save_checkpoint(path, args, torch.load(PARITY / "state_dict.pt", weights_only=True))
    return path


def original_model():
    """The options of the parity data and a model with its weights."""
    flags = json.loads((PARITY / "expected.json").read_text(encoding="utf-8"))["flags"]
    flags = [flag for flag in flags if flag not in ("DATA", "--user-dir", "USER_DIR")]
    args, _, model = build(PARITY / "data", flags)
    model.load_state_dict(torch.load(PARITY / "state_dict.pt", weights_only=True))
    return args, model.eval()


def save_checkpoint(path, args, state):
    """Write a checkpoint whose options lack what StreamSpeech does not know."""
    args = Namespace(**{key: value for key, value in vars(args).items() if not key.startswith("unit_")})
    torch.save({"args": None, "cfg": {"model": args}, "model": state}, path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The miniature corpus, spelled with the dictionaries of the parity data."""
    pieces = {
        name: [line.rsplit(" ", 1)[0] for line in (PARITY / "data" / f"{name}.txt").read_text("utf-8").splitlines()]
        for name in ("src", "tgt")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniature, "SOURCE", pieces["src"])
        patch.setattr(miniature, "TARGET", pieces["tgt"])
        patch.setattr(miniature, "WORDS", list(zip(pieces["src"], pieces["tgt"], strict=False))[:4])
        return miniature.write_corpus(tmp_path_factory.mktemp("corpus"))


def student(corpus, *flags):
    task, dataset = load_task(corpus, *STUDENT, *flags)
    return task, dataset, task.build_model(task.args)


def criterion_of(task):
    return task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion).train()


def test_warm_start_takes_decoders_and_heads_and_says_so(corpus, streamspeech, caplog):
    caplog.set_level(logging.INFO)
    torch.manual_seed(3)
    _, _, fresh = student(corpus)
    torch.manual_seed(3)
    _, _, warm = student(corpus, "--load-streamspeech-decoders", str(streamspeech))
    given = torch.load(PARITY / "state_dict.pt", weights_only=True)
    before, after = fresh.state_dict(), warm.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        taken = name.startswith((*PARTS, "decoder.")) and name in given
        assert torch.equal(tensor, given[name] if taken else before[name]), name
    log = caplog.text
    assert "unit decoder" in log and "decoder.embed_offsets.weight" in log and "its encoder" in log
    assert "without positions in time" in log


def test_causal_ctc_layers_keep_their_first_values(corpus, streamspeech, caplog):
    caplog.set_level(logging.INFO)
    _, _, model = student(corpus, "--st-ctc-layers", "1", "--load-streamspeech-decoders", str(streamspeech))
    given = torch.load(PARITY / "state_dict.pt", weights_only=True)
    assert torch.equal(model.ctc_target_unigram_decoder.proj.weight, given["ctc_target_unigram_decoder.proj.weight"])
    assert "ctc_target_unigram_decoder.layers.0" in caplog.text


def test_without_positions_the_units_start_as_the_checkpoints(corpus, streamspeech):
    flags = ("--no-unit-time-positions", "--no-unit-offset-embedding", "--load-streamspeech-decoders")
    _, _, model = student(corpus, *flags, str(streamspeech))
    hidden, padding = torch.randn(1, 6, 32), torch.zeros(1, 6, dtype=torch.bool)
    mine, theirs = (m.eval().units(hidden, padding, WaitKLags())[0] for m in (model, original_model()[1]))
    assert torch.allclose(mine, theirs, atol=1e-6)


def wrong_state(change):
    state = torch.load(PARITY / "state_dict.pt", weights_only=True)
    change(state)
    return state


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--decoder-layers", "3"], "decoder.layers.2.*is not there.*--decoder-layers 2"),
        (["--decoder-layers", "1"], "decoder.layers.1.*is not here.*--decoder-layers 2"),
        (["--decoder-embed-dim", "64"], r"shape \[\d+, 32\] there and \[\d+, 64\] here.*--decoder-embed-dim 32"),
        (["--encoder-embed-dim", "64"], r"proj.weight has shape.*--encoder-embed-dim 32"),
        (["--decoder-attention-heads", "2"], "attention heads differ.*--decoder-attention-heads 4"),
        (
            ["--target-code-size", "60"],
            r"decoder.embed_tokens.weight .*the unit dictionary has 55 symbols there and 65",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused(corpus, streamspeech, flags, message):
    with pytest.raises(ConfigError, match=message):
        student(corpus, *flags, "--load-streamspeech-decoders", str(streamspeech))


def test_other_dictionaries_are_refused(corpus, streamspeech, tmp_path):
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    data, dictionary = tmp_path / "corpus" / "fbank2unit", tmp_path / "corpus" / "tgt_unigram" / "dict.txt"
    lines = dictionary.read_text(encoding="utf-8").splitlines(keepends=True)
    dictionary.write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    with pytest.raises(ConfigError, match="dictionary of ctc_target_unigram differs: symbol 4"):
        student(data, "--load-streamspeech-decoders", str(streamspeech))
    dictionary.write_text("".join([*lines, "▁more 1\n"]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"embed_tokens.*the target dictionary has \d+ symbols there and \d+ here"):
        student(data, "--load-streamspeech-decoders", str(streamspeech))


@pytest.mark.parametrize("flag", ["--load-streamspeech-decoders", "--distill-from"])
def test_wrong_files_are_named(corpus, tmp_path, flag):
    def use(path):
        task, _, _ = student(corpus, flag, str(path))
        criterion_of(task)

    with pytest.raises(ConfigError, match=f"{flag}.*nothing.pt: no such checkpoint"):
        use(tmp_path / "nothing.pt")
    args, _ = original_model()
    save_checkpoint(tmp_path / "other.pt", args, {"encoder.embed_tokens.weight": torch.zeros(3, 4)})
    with pytest.raises(ConfigError, match="other.pt: no parameter.*not a checkpoint of a StreamSpeech"):
        use(tmp_path / "other.pt")


def test_a_teacher_that_is_not_whole_or_too_wide_is_refused(corpus, streamspeech, tmp_path):
    with pytest.raises(ConfigError, match="32 wide and the student's 64; train with --encoder-embed-dim 32"):
        EncoderTeacher.read(streamspeech, 64)
    args, _ = original_model()
    state = wrong_state(lambda state: state.pop("encoder.conformer_layers.1.self_attn.linear_q.weight"))
    save_checkpoint(tmp_path / "part.pt", args, state)
    with pytest.raises(ConfigError, match="does not fit.*conformer_layers.1.self_attn.linear_q.weight"):
        EncoderTeacher.read(tmp_path / "part.pt")


def test_the_flag_is_not_needed_to_resume_nor_to_translate(corpus, streamspeech, tmp_path):
    """The file is gone when the training goes on, and when its checkpoint is read."""
    file = tmp_path / "streamspeech.pt"
    shutil.copy(streamspeech, file)
    flags = (*STUDENT, "--load-streamspeech-decoders", str(file))
    save, both = tmp_path / "save", (*flags, "--disable-validation")
    whole = train(corpus, tmp_path / "whole", *both, updates=4)
    first = train(corpus, save, *both, updates=2)
    args = first["cfg"]["model"]
    assert args.load_streamspeech_decoders is None and args.warm_started_from == str(file)
    file.unlink()
    resumed = train(corpus, save, *both, updates=4)
    assert all(torch.equal(tensor, resumed["model"][name]) for name, tensor in whole["model"].items())
    (save / "moved.pt").write_bytes((save / "checkpoint_last.pt").read_bytes())
    (save / "checkpoint_last.pt").unlink()
    run_cli(
        "fairseq_cli.generate",
        [*task_arguments(corpus), "--target-code-size", "50", "--path", str(save / "moved.pt"), "--gen-subset", "dev",
         "--max-tokens", "2000", "--cpu", "--max-len-b-mt", "5"],
    )  # fmt: skip
    with pytest.raises(ConfigError, match="no such checkpoint"):
        train(corpus, tmp_path / "new", *both, updates=1)


def test_finetuning_and_warm_start_exclude_each_other(corpus, streamspeech):
    with pytest.raises(ConfigError, match="give only one"):
        student(corpus, "--finetune-from-model", str(streamspeech), "--load-streamspeech-decoders", str(streamspeech))


def test_a_streamspeech_checkpoint_starts_a_training(corpus, streamspeech, tmp_path):
    """Warm start, teacher and multi-chunk together: the encoder comes closer to the teacher's, the model keeps its
    names, and what stopped goes on as if it had not."""
    flags = (
        *STUDENT, "--multichunk", "--multichunk-sizes", "8,16,0", "--load-streamspeech-decoders", str(streamspeech),
        "--distill-from", str(streamspeech), "--distill-weight", "2", "--disable-validation",
    )  # fmt: skip
    whole = train(corpus, tmp_path / "whole", *flags, updates=30)
    task, dataset, first = student(corpus, *flags)
    _, _, trained = student(corpus)
    assert whole["model"].keys() == trained.state_dict().keys() and whole["criterion"] is None
    assert len(whole["last_optimizer_state"]["state"]) == len(list(trained.parameters()))
    trained.load_state_dict(whole["model"])
    criterion, sample = criterion_of(task).eval(), dataset.collater([dataset[i] for i in range(4)])
    with torch.no_grad():
        before, after = (criterion(model.eval(), sample)[2] for model in (first, trained))
    assert after["distill_loss"] < 0.8 * before["distill_loss"]
    assert after["distill_frames"] == int(sample["net_input"]["src_lengths"].add(3).div(4, rounding_mode="floor").sum())

    train(corpus, tmp_path / "halves", *flags, updates=15)
    resumed = train(corpus, tmp_path / "halves", *flags, updates=30)
    assert all(torch.equal(tensor, resumed["model"][name]) for name, tensor in whole["model"].items())


def test_distillation_is_logged_and_left_out_of_the_validation_loss(corpus, streamspeech):
    from fairseq.logging import metrics

    task, dataset, model = student(corpus, "--distill-from", str(streamspeech), "--distill-weight", "0.5")
    criterion, sample = criterion_of(task), dataset.collater([dataset[0], dataset[1]])
    for training in (True, False):
        criterion.train(training)
        torch.manual_seed(0)
        with_teacher, _, logging_output = criterion(model.eval(), sample)
        teacher, criterion.teacher = criterion.teacher, None
        without, _, _ = criterion(model, sample)
        criterion.teacher = teacher
        added = (with_teacher - without).item()
        assert added == pytest.approx(logging_output["distill_loss"].item() / 2 if training else 0, abs=0.01)
        with metrics.aggregate() as logged:
            criterion.reduce_metrics([logging_output])
        assert logged["distill_loss"].avg == pytest.approx(
            logging_output["distill_loss"].item() / logging_output["distill_frames"], rel=1e-5
        )


def test_the_teacher_hears_what_the_student_hears(corpus, streamspeech):
    task, dataset, model = student(corpus, "--distill-from", str(streamspeech))
    criterion, sample = criterion_of(task), dataset.collater([dataset[0]])
    net_input, original = sample["net_input"], original_model()[1]
    for segment in (8, 16, 0):
        with torch.no_grad():
            wanted, _ = original.encoder(net_input["src_tokens"], net_input["src_lengths"], segment)
        assert torch.equal(criterion.teach(model, net_input, segment), wanted)
    assert torch.equal(criterion.teach(model, net_input, None), criterion.teach(model, net_input, 8))
    criterion.distill_segment = 0
    assert torch.equal(criterion.teach(model, net_input, 8), wanted)


def test_a_model_is_validated_where_its_teacher_is_gone(corpus, streamspeech, tmp_path):
    teacher = tmp_path / "teacher.pt"
    shutil.copy(streamspeech, teacher)
    train(corpus, tmp_path, *STUDENT, "--distill-from", str(teacher), "--disable-validation", updates=1)
    teacher.unlink()
    validate = [*task_arguments(corpus), "--target-code-size", "50", "--path", str(tmp_path / "checkpoint_last.pt"),
                "--valid-subset", "dev", "--max-tokens", "2000", "--cpu"]  # fmt: skip
    with pytest.raises(ConfigError, match="--model-overrides \"{'distill_weight': 0}\""):
        run_cli("fairseq_cli.validate", validate)
    run_cli("fairseq_cli.validate", [*validate, "--model-overrides", "{'distill_weight': 0}"])


def test_padding_does_not_count():
    student, teacher = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    lengths = torch.tensor([5, 2])
    other = teacher.clone()
    other[1, 2:] = 1e4
    assert torch.equal(distill_loss(student, teacher, lengths), distill_loss(student, other, lengths))
    assert distill_loss(teacher, teacher, lengths).abs() < 1e-5


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_distillation_in_half_precision(corpus, streamspeech, precision):
    """What --bf16 and --fp16 do, and in float32 what --autocast bf16 does."""
    flags = ["--autocast", "bf16"] if precision is torch.float32 else []
    task, dataset, model = student(corpus, "--multichunk", "--distill-from", str(streamspeech), *flags)
    criterion, sample = criterion_of(task), dataset.collater([dataset[i] for i in range(3)])
    sample["net_input"]["src_tokens"] = sample["net_input"]["src_tokens"].to(precision)
    loss, _, logging_output = criterion(model.to(precision).train(), sample)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logging_output["distill_loss"])
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert not list(criterion.parameters()) and not criterion.state_dict()


def test_an_emformer_of_ours_gives_decoders_and_teaches(corpus, tmp_path):
    checkpoint = train(corpus, tmp_path, *STUDENT, "--disable-validation", updates=1)
    path = tmp_path / "checkpoint_last.pt"
    _, _, model = student(corpus)
    lines = load_decoders(model, path)
    assert torch.equal(model.decoder.embed_offsets.weight, checkpoint["model"]["decoder.embed_offsets.weight"])
    assert len(lines) == 1 or "without positions" not in lines[-1]
    teacher = EncoderTeacher.read(path, 32)
    assert teacher(torch.randn(1, 50, 80), torch.tensor([50]), 8).shape == (1, 13, 32)
