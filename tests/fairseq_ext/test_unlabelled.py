"""Speech without transcripts beside a training: the encoder stays near Whisper on it, and nothing else changes."""

import pytest
import soundfile
import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from echostream_plugin.adaptation.unlabelled import UnlabelledSpeech
from echostream_plugin.config import ConfigError
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from tests.fairseq_ext import miniature
from tests.fairseq_ext.miniature import load_task, run_cli, task_arguments, train
from tests.fairseq_ext.test_encoders import WHISPER, spoken  # noqa: F401  a fixture
from tests.tiny_bundle import speechlike
from tests.whisper_file import write_model_bin

PLAIN = WhisperConfig(inner_dim=16, heads=2, ffn_dim=24, layers=3, halve_after=2, dim=16, left_context_frames=6)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """The flags of a run with five recordings of people; their folder and Whisper's weights lie beside each other."""
    root = tmp_path_factory.mktemp("others")
    (root / "people").mkdir()
    for i in range(5):
        soundfile.write(root / "people" / f"{i}.wav", speechlike(0.8, seed=40 + i), 16000)
    weights = str(write_model_bin(root / "model.bin"))
    return ["--unlabelled", str(root / "people"), "--unlabelled-s", "2", "--unlabelled-teacher", weights]


@pytest.fixture
def whisper(monkeypatch):
    monkeypatch.setattr(miniature, "TINY", WHISPER)


def loaded(spoken, *flags):  # noqa: F811
    """Criterion, model and a batch."""
    task, dataset = load_task(spoken, *flags)
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion)
    return criterion, task.build_model(task.args).eval(), dataset.collater([dataset[0], dataset[1]])


def test_the_distance_is_added_in_training_alone(spoken, others, whisper):  # noqa: F811
    criterion, model, sample = loaded(spoken, *others, "--unlabelled-weight", "3")
    for training in (True, False):
        criterion.train(training)
        torch.manual_seed(5)
        loss, size, logging = criterion(model, sample)
        held, criterion.unlabelled = criterion.unlabelled, None
        torch.manual_seed(5)
        without, _, plain = criterion(model, sample)
        criterion.unlabelled = held
        if training:
            distance = logging["unlabelled_distance"].item() / size
            assert distance > 0.01 and (loss - without).item() == pytest.approx(3 * size * distance, rel=1e-3)
            assert logging["loss"].item() == pytest.approx(loss.item()) and "unlabelled_distance" not in plain
        else:
            assert loss.item() == pytest.approx(without.item()) and "unlabelled_distance" not in logging
    assert not list(criterion.parameters()) and not criterion.state_dict()


def test_an_encoder_is_drawn_back_to_whisper(spoken, others, whisper, tmp_path):  # noqa: F811
    """Without its first values, the encoder is far from Whisper's; the run that hears people comes nearer."""
    flags = ("--unlabelled-weight", "100", "--multichunk", "--disable-validation")
    distances = {}
    for name, given in (("with", [*others, *flags]), ("without", [])):
        state = train(spoken, tmp_path / name, *given, updates=40)["model"]
        encoder = WhisperEncoder(PLAIN).eval()
        encoder.load_state_dict({key[8:]: value for key, value in state.items() if key.startswith("encoder.")})
        heard = UnlabelledSpeech(others[1], 6.0, others[5], encoder)
        torch.manual_seed(1)
        distances[name] = heard.distance(encoder, 4).item()
    assert distances["with"] < 0.8 * distances["without"]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(spoken, others, whisper, tmp_path):  # noqa: F811
    whole = train(spoken, tmp_path / "whole", *others, updates=4)["model"]
    train(spoken, tmp_path / "halves", *others, updates=2)
    resumed = train(spoken, tmp_path / "halves", *others, updates=4)["model"]
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    plain = train(spoken, tmp_path / "plain", updates=4)["model"]
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in whole.items())


def test_a_checkpoint_is_validated_where_the_recordings_are_gone(spoken, others, whisper, tmp_path):  # noqa: F811
    train(spoken, tmp_path, *others, "--disable-validation", updates=1)
    saved = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    saved["cfg"]["criterion"]["unlabelled"] = str(tmp_path / "nowhere")
    torch.save(saved, tmp_path / "checkpoint_last.pt")
    run_cli("fairseq_cli.validate", [
        *task_arguments(spoken), "--path", str(tmp_path / "checkpoint_last.pt"),
        "--valid-subset", "dev", "--max-tokens", "2000", "--cpu",
    ])  # fmt: skip


@pytest.mark.parametrize("change, message", [
    ({1: "nowhere.tsv"}, "nowhere.tsv: no such list of recordings or folder"),
    ({5: "nowhere.bin"}, "nowhere.bin"), ({3: "0"}, "--unlabelled-s 0.0: must be more than 0"),
])  # fmt: skip
def test_what_cannot_be_used_is_named(spoken, others, whisper, change, message):  # noqa: F811
    flags = [change.get(i, flag) for i, flag in enumerate(others)]
    with pytest.raises(ConfigError, match=message):
        criterion, model, sample = loaded(spoken, *flags)
        criterion.train()(model, sample)


def test_other_encoders_have_no_whisper_to_stay_near(corpus, others):
    criterion, model, sample = loaded(corpus, *others)
    with pytest.raises(ConfigError, match="only an encoder that was Whisper's"):
        criterion.train()(model, sample)
