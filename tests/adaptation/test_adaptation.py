"""Adapting a Whisper encoder: lists, batches, losses, and a run that goes on where it was stopped."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from echostream_plugin.adaptation.characters import Characters, error_rates, normalise
from echostream_plugin.adaptation.speech import Batches, Utterance, in_batches, load, read_list
from echostream_plugin.adaptation.teacher import WhisperTeacher, relative_distance, target_of
from echostream_plugin.adaptation.training import Adaptation, AdaptOptions, early_chance, mask_features, saved_letters
from echostream_plugin.benchmark.whisper_encoder import distances_of
from echostream_plugin.config import ConfigError
from echostream_plugin.data.whisper_weights import load_whisper_encoder, save_adapted
from echostream_plugin.encoders.whisper import WhisperConfig, WhisperEncoder
from tests.tiny_bundle import save_tiny_bundle, speechlike
from tests.whisper_file import SMALL, write_model_bin

CONFIG = WhisperConfig(**SMALL, left_context_frames=8, dropout=0.1)
OPTIONS = AdaptOptions(
    updates=4, batch_s=4.0, others_s=1.0, warmup=2, save_every=2, evaluate_every=4, chunk_ms=(160, 320), bf16=False
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train.tsv with 8 recordings of 0.7 s, and one that is not there; others/ with 3; model.bin."""
    root = tmp_path_factory.mktemp("speech")
    (root / "wav").mkdir()
    (root / "others").mkdir()
    rows = ["id\twav\tsource"]
    for i in range(8):
        soundfile.write(root / "wav" / f"{i}.flac", speechlike(0.7, seed=i), 16000)
        rows.append(f"{i}\twav/{i}.flac\t{'¡Sí, mañana!' if i % 2 else 'no sé'}")
    rows.append("9\twav/9.flac\tnada")
    (root / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for i in range(3):
        soundfile.write(root / "others" / f"{i}.wav", speechlike(0.5, seed=20 + i), 8000)
    write_model_bin(root / "model.bin")
    return root


def lists(folder):
    return read_list(folder / "train.tsv"), read_list(folder / "others")


def adaptation(folder, output, **changes):
    labelled, _ = lists(folder)
    letters = Characters.of(one.text for one in labelled)
    options = dataclasses.replace(OPTIONS, **changes)
    return Adaptation(output, CONFIG, options, letters, folder / "model.bin")


def batches(folder, workers=0):
    return Batches(*lists(folder), OPTIONS.batch_s, OPTIONS.others_s, OPTIONS.seed, workers)


def test_lists(folder, tmp_path, capsys):
    labelled, others = lists(folder)
    assert len(labelled) == 8 and labelled[1].text == "¡Sí, mañana!" and labelled[0].seconds == pytest.approx(0.7)
    assert "1 of 9 recordings are not there" in capsys.readouterr().err
    assert len(others) == 3 and others[0].text is None
    assert others[0].seconds == 1.0 and len(load(others[0])) == 99
    with pytest.raises(ConfigError, match="no recording of at most 0.2 s"):
        read_list(folder / "others", 0.2)
    with pytest.raises(ConfigError, match="nowhere: no such list"):
        read_list(tmp_path / "nowhere")
    (tmp_path / "list.tsv").write_text("id\tsound\n1\t2\n")
    with pytest.raises(ConfigError, match="list.tsv: no column audio or wav or src_audio"):
        read_list(tmp_path / "list.tsv")


def test_an_epoch_has_every_transcribed_recording_once(folder):
    ours = list(batches(folder).epoch(0))
    texts = [text for batch in ours for text in batch.texts]
    assert sum(text is not None for text in texts) == 8 and None in texts
    for threads in (0, 2):
        again = list(batches(folder, threads).epoch(0, start=1))
        assert all(torch.equal(one.features, other.features) for one, other in zip(ours[1:], again, strict=True))
    assert not torch.equal(ours[0].features, next(batches(folder).epoch(1)).features)


def test_padding_counts_in_the_size_of_a_batch():
    utterances = [Utterance(str(i), seconds) for i, seconds in enumerate((1.0, 1.0, 3.0, 1.0))]
    assert [len(batch) for batch in in_batches(utterances, 4.0)] == [2, 1, 1]


def test_letters():
    letters = Characters.of(["¿Qué, «señor»?", "si"])
    assert Characters.of(["a" * 99_999 + "x"]).letters == "a"
    assert normalise("¿Qué, «señor»?  2") == "qué señor 2" and letters.letters == " eioqrsuéñ"
    target = letters.encode("¡Sí, señor!")
    assert len(target) == len("s señor")  # í is none of its letters
    log_probs = torch.full((3 * len(target), len(letters)), -9.0)
    for i, letter in enumerate(target):
        log_probs[3 * i, letter] = log_probs[3 * i + 1, letter] = log_probs[3 * i + 2, 0] = 0.0
    assert letters.decode(log_probs) == "s señor"
    assert error_rates([("el pero", "el perro"), ("", "no")]) == pytest.approx((200 / 3, 30.0))


def test_the_teacher_is_one_frame_ahead(folder):
    """A student that limits nothing, with the teacher's positions, is its teacher one frame later."""
    config = dataclasses.replace(CONFIG, layers=3, halve_after=3, dropout=0.0)
    teacher, student = WhisperTeacher(config, folder / "model.bin"), WhisperEncoder(config).eval()
    load_whisper_encoder(student, folder / "model.bin")
    student.front.positions = teacher.encoder.front.positions
    features, lengths = torch.randn(2, 90, 80), torch.tensor([90, 61])
    with torch.no_grad():
        taught = teacher(features, lengths)
        late = torch.cat([torch.zeros(2, 1, 16), taught], dim=1)[:, :45]
        frames = torch.tensor([45, 31])
        assert relative_distance(late, taught, frames, False) < 1e-10
        late[1, 31:] = 5.0  # beyond its length
        assert relative_distance(late, taught, frames, False) < 1e-10
        late[1, 30] = 5.0
        assert relative_distance(late, taught, frames, False) > 1e-4
    pairs = target_of(taught, coarse=True)
    assert pairs.shape == (2, 23, 16) and torch.allclose(pairs[:, 3], (taught[:, 6] + taught[:, 7]) / 2)


def test_what_place_adds_is_taken_away(folder, tmp_path):
    teacher = WhisperTeacher(CONFIG, folder / "model.bin")
    with torch.no_grad():
        features, lengths = torch.from_numpy(load(lists(folder)[0][0]))[None], torch.tensor([69])
        before = teacher(features, lengths)
        teacher.measure_share(lists(folder)[0] * 60, tmp_path / "share")
        assert torch.allclose(before - teacher(features, lengths), teacher.share[:35], atol=1e-5)
    assert teacher.share.std(0).mean() > 0.01
    other = WhisperTeacher(CONFIG, folder / "model.bin")
    other.measure_share([], tmp_path / "share")
    assert torch.equal(other.share, teacher.share)


def test_what_training_took_from_an_encoder_is_measured(folder, tmp_path):
    """One that is as it was before any training is near Whisper, one whose layers were replaced is not."""
    whisper, other = WhisperEncoder(CONFIG), WhisperEncoder(CONFIG)
    load_whisper_encoder(whisper, folder / "model.bin")
    paths = [save_adapted(tmp_path / f"{name}.safetensors", of) for name, of in (("kept", whisper), ("lost", other))]
    labelled, others = lists(folder)
    kept, lost = distances_of(paths, labelled, others * 60, folder / "model.bin")
    assert (kept["encoder"], lost["encoder"]) == ("kept.safetensors", "lost.safetensors")
    for ms in (320, 960):
        assert 0 < kept[f"distance at {ms} ms"] < 0.8 * lost[f"distance at {ms} ms"]
    save_tiny_bundle(tmp_path)
    with pytest.raises(ConfigError, match="bundle: its encoder was not Whisper's"):
        distances_of([tmp_path / "bundle"], labelled, others, folder / "model.bin")


def test_masks_lie_inside_the_recording():
    torch.manual_seed(0)
    features = torch.ones(8, 100, 80)
    masked = mask_features(features, torch.full((8,), 50), OPTIONS)
    assert 0 < (masked != 1).float().mean() < 0.5 and (features == 1).all()
    rows = (masked[:, 50:] != 1).all(2)
    assert not rows.any()  # masks of time end with the recording


def test_letters_before_the_first_sound_cost():
    features = torch.full((2, 80, 80), -0.6)
    features[0, 40:] = features[1, :] = 1.0
    logits = torch.zeros(2, 20, 5)
    logits[:, :, 0] = 9.0
    assert early_chance(logits, features) < 0.01
    logits[0, 4] = logits[1, 4] = torch.tensor([0.0, 9.0, 0, 0, 0])
    assert early_chance(logits, features) == pytest.approx(0.1, abs=0.01)


def test_a_run_that_was_stopped_goes_on_as_if_it_was_not(folder, tmp_path):
    dev = {"dev": lists(folder)[0][:2]}
    whole = adaptation(folder, tmp_path / "whole")
    whole.train(batches(folder), dev, lambda line: None)
    losses = np.genfromtxt(tmp_path / "whole" / "train.tsv", names=True, delimiter="\t")
    assert len(losses) == 4 and np.isfinite(losses["ctc"]).all() and (losses["teacher"] > 0).all()
    rates = np.genfromtxt(tmp_path / "whole" / "dev.tsv", names=True, delimiter="\t", dtype=None, encoding="utf-8")
    assert len(rates) == 5 and set(rates["chunk_ms"]) == {160, 320, 640, 960, 0}

    adaptation(folder, tmp_path / "parts").train(batches(folder), {}, lambda line: None, hours=1e-9)  # one update
    with open(tmp_path / "parts" / "train.tsv", "a", encoding="utf-8") as log:
        log.write("2\t1.0\t9.0\t9.0\n")  # of an update that no checkpoint has
    said = []
    again = adaptation(folder, tmp_path / "parts")
    again.train(batches(folder), {}, said.append)
    assert "goes on after update 1" in said[0] and again.update == 4
    assert saved_letters(tmp_path / "parts") == again.letters and saved_letters(tmp_path) is None
    for name, tensor in whole.student.state_dict().items():
        assert torch.equal(tensor, again.student.state_dict()[name]), name
    logs = [np.genfromtxt(tmp_path / name / "train.tsv", names=True)["ctc"] for name in ("whole", "parts")]
    np.testing.assert_array_equal(*logs)
    fresh = WhisperEncoder(CONFIG)
    load_whisper_encoder(fresh, tmp_path / "parts" / "adapted.safetensors")


def test_without_a_teacher_and_with_every_term(folder, tmp_path):
    batch = next(batches(folder).epoch(0))
    assert set(adaptation(folder, tmp_path / "a", teacher_weight=0.0).step(batch)) == {"ctc"}
    losses = adaptation(folder, tmp_path / "b", early_weight=1.0, bf16=True).step(batch)
    assert set(losses) == {"ctc", "teacher", "early"} and np.isfinite(list(losses.values())).all()


def test_only_the_encoder_learns_slowly(folder, tmp_path):
    run = adaptation(folder, tmp_path, encoder_lr=0.0, warmup=0)
    before = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
    run.step(next(batches(folder).epoch(0)))
    moved = {name for name, tensor in run.student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith(("head.", "encoder.projection.", "encoder.output_norm.")) for name in moved)


def test_segments_are_multiples_of_a_frame():
    with pytest.raises(ConfigError, match="chunk_ms .*: use multiples of 40"):
        AdaptOptions(chunk_ms=(320, 50))
