"""A gate from recordings: its questions, the regression, the threshold, and what is written into the bundle."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin.data import DataError
from echostream_plugin.data.tables import write_table
from echostream_plugin.evaluation import gate
from echostream_plugin.evaluation.gate import Asked, CalibrationError, calibrate, changed, fit, keep_share, left_out
from echostream_plugin.evaluation.language import fit_language, mean_frames, samples_of
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.confidence import FEATURES, GateModel
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.session import TranslationSession
from tests.scripts.conftest import load_script
from tests.tiny_bundle import save_tiny_bundle, speechlike

calibrate_gate = load_script("calibrate_gate")


def asked(kind, count, centre, seed, looks=4):
    """Recordings whose agreement lies around `centre`, and whose other features say nothing."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        values = generator.standard_normal((looks, len(FEATURES)))
        values[:, FEATURES.index("agreement")] = centre + 0.1 * generator.standard_normal(looks)
        found.append(Asked(kind, values, values))
    return found


def test_the_regression_finds_what_tells_them_apart():
    items = asked("speech", 60, 0.8, 1) + asked("noise", 60, 0.4, 2)
    model = fit(items)
    slope, least, most = model.weights["agreement"]
    others = [of for name, of in model.weights.items() if name != "agreement"]
    spans = [abs(weight) * (high - low) for weight, low, high in others]
    assert slope > 0 and 0.1 < least < most < 1.1 and slope * (most - least) > 4 * max(spans)
    sure, unsure = np.zeros(len(FEATURES)), np.zeros(len(FEATURES))
    sure[FEATURES.index("agreement")], unsure[FEATURES.index("agreement")] = 0.8, 0.4
    assert model(sure) > 0.9 and model(unsure) < 0.1


def test_a_recording_weighs_the_same_however_long_it_is():
    items = asked("speech", 30, 0.8, 1) + asked("noise", 30, 0.4, 2)
    many = [Asked(item.kind, np.repeat(item.closed, 9, axis=0), item.opened) for item in items[:5]] + items[5:]
    for name, (weight, low, high) in fit(items).weights.items():
        other = fit(many).weights[name]
        assert other[0] * (other[2] - other[1]) == pytest.approx(weight * (high - low), abs=0.6)


def test_a_side_that_is_missing_is_named():
    silent = Asked("noise", np.zeros((0, len(FEATURES))), np.zeros((0, len(FEATURES))))
    with pytest.raises(CalibrationError, match="both sides"):
        fit([*asked("speech", 10, 0.8, 1), silent])


def test_the_threshold_refuses_no_more_speech_than_asked_for():
    items = asked("speech", 100, 0.7, 1) + asked("noise", 50, 0.45, 2) + asked("music", 20, 0.1, 3)
    silent = Asked("music", np.zeros((0, len(FEATURES))), np.zeros((0, len(FEATURES))))
    found = calibrate([*items, silent], 2.0)
    confidences = left_out([*items, silent])
    assert (confidences[:100] < found.threshold).mean() <= 0.02 and confidences[-1] == 0
    rows = {row["kind"]: row for row in found.table}
    assert list(rows) == ["speech", "noise", "music", "all speech", "everything else"]
    assert rows["everything else"]["recordings"] == 71 and rows["all speech"] | {"kind": "speech"} == rows["speech"]
    assert rows["speech"]["refused"].value <= 2.0 and rows["music"]["recordings"] == 21
    assert rows["music"]["wordy"].value < rows["speech"]["wordy"].value == 100 - rows["speech"]["refused"].value
    shares = [(row["refused"].value, row["wordy"].value) for row in found.choices]
    assert shares[2][0] == rows["speech"]["refused"].value and shares[2][1] == rows["everything else"]["wordy"].value
    assert [refused for refused, _ in shares] == sorted(refused for refused, _ in shares)
    stricter = calibrate([*items, silent], 20.0)
    assert stricter.threshold > found.threshold
    assert stricter.table[-1]["wordy"].value <= rows["everything else"]["wordy"].value


def test_speech_of_several_kinds_is_refused_as_one():
    items = asked("speech", 60, 0.7, 1) + asked("speech: human", 20, 0.6, 4) + asked("noise", 50, 0.3, 2)
    rows = {row["kind"]: row for row in calibrate(items, 5.0).table}
    assert rows["all speech"]["recordings"] == 80 and "refused" in rows["speech: human"]
    assert "refused" not in rows["noise"] and rows["all speech"]["refused"].value <= 5.0


def test_once_written_nearly_all_speech_is_kept():
    place = FEATURES.index("agreement")
    model = GateModel({"agreement": (10.0, 0.0, 1.0)}, -5.0)  # a half at 0.5
    items = []
    for lowest in [0.35] * 199 + [0.1]:  # after it was opened
        values = np.zeros((4, len(FEATURES)))
        values[:, place] = (0.2, 0.8, lowest, 0.9)
        items.append(Asked("speech", values, values))
    noise = Asked("noise", values * 0, values * 0)
    assert keep_share(model, 0.9, [*items, noise]) == pytest.approx(model(items[0].opened[2]) / 0.9)
    assert keep_share(model, 0.999, items) == 0.0  # nothing was ever written
    steady = [Asked("speech", item.closed, np.maximum(item.opened, 0.6 * (item.opened > 0))) for item in items]
    assert keep_share(model, 0.9, steady) == gate.MOST_KEPT  # what was begun is not given up lightly


def test_garbled_speech_has_the_same_samples():
    speech = speechlike(2.0)
    assert np.array_equal(changed(speech, 16000, "reversed")[::-1], speech)
    shuffled = changed(speech, 16000, "shuffled")
    assert np.array_equal(np.sort(shuffled), np.sort(speech)) and not np.array_equal(shuffled, speech)
    assert np.array_equal(shuffled, changed(speech, 16000, "shuffled"))


def test_a_telephone_line_has_no_high_sounds():
    time = np.arange(32000) / 16000
    low, high = np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 6000 * time)
    called = changed((low + high).astype(np.float32), 16000, gate.TELEPHONE)
    assert len(called) == 32000 and np.abs(called - low)[800:-800].max() < 0.02


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration")
    save_tiny_bundle(folder, session={"chunk_ms": 960})
    (folder / "speech").mkdir()
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", speechlike(1.0, seed=number), 16000)
    (folder / "speech" / "wav_list.txt").write_text("".join(f"../{number}.wav\n" for number in range(3)))
    (folder / "speech" / "target.txt").write_text("t1\nt2\nt3\n")
    write_table(folder / "dev.tsv", ("kind", "wav"), [{"kind": "noise", "wav": f"{n}.wav"} for n in (3, 4, 5)])
    return folder


def test_questions_are_those_of_a_session(given):
    (item,) = gate.ask([("speech", str(given / "0.wav"), "")], given / "bundle")
    assert item.wanted and len(item.closed) >= 2 and item.closed.shape[1] == len(FEATURES) == item.opened.shape[1]
    evidence = FEATURES.index("evidence")
    assert np.isfinite(item.closed).all() and (np.diff(item.closed[:, evidence]) >= 0).all()


def test_the_people_of_a_table_are_speech(given):
    (given / "text").mkdir()
    rows = [{"id": n, "wav": f"{n}.wav", "engine": "human" if n else "pico"} for n in range(3)]
    write_table(given / "text" / "train.tsv", ("id", "wav", "engine"), rows)
    table = str(given / "text" / "train.tsv")
    found = calibrate_gate.speech_of(f"{table}:human", 0)
    assert found == [("speech: human", given / "1.wav"), ("speech: human", given / "2.wav")]
    assert [kind for kind, _ in calibrate_gate.speech_of(table, 2)] == ["speech: train"] * 2
    with pytest.raises(DataError, match="no row of engine 'kokoro'"):
        calibrate_gate.speech_of(f"{table}:kokoro", 0)


@pytest.fixture(scope="module")
def languages(given):
    """Two tables: low voices for the source language, high ones for others."""
    for name, low in (("source", True), ("others", False)):
        (given / name).mkdir()
        for number in range(12):
            tone = np.sin(2 * np.pi * (150 if low else 1500) * np.arange(32000) / 16000)
            soundfile.write(given / name / f"{number}.wav", 0.3 * tone + 0.05 * speechlike(2.0, seed=number), 16000)
        rows = [{"id": n, "what": f"language {n % 2}", "wav": f"{n}.wav"} for n in range(12)]
        write_table(given / name / "train.tsv", ("id", "what", "wav"), rows)
    return [given / name / "train.tsv" for name in ("source", "others")]


def test_every_second_row_of_a_table(given):
    assert [path.name for _, path in calibrate_gate.speech_of(f"{with_engines(given)}:pico:2", 0)] == ["0.wav", "2.wav"]
    with pytest.raises(DataError, match="'x' is no number"):
        calibrate_gate.speech_of(f"{with_engines(given)}:pico:x", 0)


def with_engines(given):
    """A table of three recordings of one engine."""
    (given / "engines").mkdir(exist_ok=True)
    table = given / "engines" / "train.tsv"
    write_table(table, ("id", "wav", "engine"), [{"id": n, "wav": f"{n}.wav", "engine": "pico"} for n in range(3)])
    return table


def test_recordings_of_every_group_and_none_that_is_asked_about(given, languages):
    without = {str(given / "source" / f"{n}.wav") for n in (0, 1, 2)}
    found = samples_of([languages[0]], True, 2, without)
    assert [Path(sample.wav).name for sample in found] == ["3.wav", "7.wav", "4.wav", "8.wav"]
    assert [sample.telephone for sample in found] == [False, True, False, True] and all(s.wanted for s in found)
    assert not samples_of([languages[1]], False, 1)[0].wanted
    with pytest.raises(DataError, match="no recordings for the language"):
        samples_of([languages[0]], True, 2, {str(given / "source" / f"{n}.wav") for n in range(12)})


def test_the_language_is_told_by_what_a_session_adds_up(given, languages):
    """The line through mean frames, and the sums of a session over the same recording, agree."""
    samples = samples_of(languages[:1], True, 6) + samples_of(languages[1:], False, 6)
    language = fit_language(samples, given / "bundle")
    bundle = load_bundle(given / "bundle")
    assert len(language) == bundle.config.encoder.dim + 1
    means = mean_frames(samples, given / "bundle")
    scores = [float(of[-1] @ language[:-1] + language[-1]) for of in means]
    assert min(scores[:12]) > 0 > max(scores[12:])
    place = FEATURES.index("language")
    for number in (0, 12):  # neither over the telephone
        kind = "speech" if number == 0 else "noise"
        (item,) = gate.ask([(kind, samples[number].wav, "")], given / "bundle", language=language)
        if len(item.closed):
            assert np.sign(item.closed[-1, place]) == np.sign(scores[number])
    (silent,) = gate.ask([("speech", samples[0].wav, "")], given / "bundle")
    assert (silent.closed[:, place] == 0).all()


def test_the_script_fits_the_language_too(given, languages, tmp_path, capsys):
    bundle = shutil.copytree(given / "bundle", tmp_path / "bundle")
    arguments = ["--bundle", str(bundle), "--speech", str(given / "speech"), "--not-speech", str(given / "dev.tsv")]
    arguments += ["--garbled", "2", "--write", "--language", str(languages[0])]
    with pytest.raises(SystemExit):
        calibrate_gate.main(arguments)
    assert "go together" in capsys.readouterr().err
    assert calibrate_gate.main([*arguments, "--other-languages", str(languages[1])]) == 0
    loaded = load_bundle(bundle)
    assert len(loaded.gate.language) == loaded.config.encoder.dim + 1
    session = TranslationSession(loaded)
    session.push(speechlike(3.0), 16000)
    session.finish()
    path = bundle / "config.json"
    description = json.loads(path.read_text())
    description["gate"]["language"] = [1.0, 2.0]
    path.write_text(json.dumps(description))
    with pytest.raises(BundleError, match="language has 2 numbers, for an encoder of .* calibrate again"):
        load_bundle(bundle)


def test_the_script_puts_a_gate_into_the_bundle(given, tmp_path, capsys):
    bundle = shutil.copytree(given / "bundle", tmp_path / "bundle")
    arguments = ["--bundle", str(bundle), "--speech", str(given / "speech"), "--not-speech", str(given / "dev.tsv")]
    arguments += ["--garbled", "2", "--telephone", "1"]
    before = (bundle / "config.json").read_text()
    assert calibrate_gate.main(arguments) == 0 and (bundle / "config.json").read_text() == before
    said = capsys.readouterr().out
    assert (
        "| no speech: noise | 3 |" in said
        and "| reversed | 2 |" in said
        and "| speech: telephone | 1 |" in said
        and "--write puts it" in said
    )
    assert calibrate_gate.main([*arguments, "--write"]) == 0
    loaded = load_bundle(bundle)
    session = json.loads((bundle / "config.json").read_text())["session"]
    assert session["chunk_ms"] == 960 and TranslationSession(loaded).options.gate == session["gate"] > 0
    assert set(loaded.gate.weights) == set(FEATURES)
    assert calibrate_gate.main([*arguments[:3], str(tmp_path), *arguments[4:]]) == 1
    assert "wav_list.txt: no such list" in capsys.readouterr().err
