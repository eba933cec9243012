"""The demo: everything it promises is in the folder, and what it cannot use is named."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from echostream_plugin.evaluation.demo import MARK, DemoError, fresh_folder, own_recording
from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

pytest.importorskip("simuleval")
demo = load_script("demo")


def test_the_demo_leaves_everything_it_promises(bundle_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--bundle", str(bundle_folder), "--output", str(out), "--no-asr", "--jobs", "1"]
    assert demo.main(arguments) == 0
    for name in ("say0", "say1"):
        for file in ("source.wav", "translated.wav", "together.wav", "written.tsv", "timeline.png"):
            assert (out / name / file).is_file(), file
        assert soundfile.info(out / name / "together.wav").channels == 2
    scores = json.loads((out / "scores.json").read_text())
    assert {"AL", "LAAL", "ATD", "StartOffset", "EndOffset", "RTF", "text_bleu"} <= set(scores["scores"])
    assert scores["scores"]["AL_CA"] >= scores["scores"]["AL"]
    header, *rows = (out / "scores.tsv").read_text().splitlines()
    assert header.startswith("recording\tseconds\tAL") and len(rows) == 3
    growth = (out / "say0" / "written.tsv").read_text().splitlines()
    times = [int(line.split("\t")[0]) for line in growth[1:]]
    assert times == sorted(times) and {line.split("\t")[1] for line in growth[1:]} == {"transcript", "translation"}
    said = capsys.readouterr().out
    assert "AL ms" in said and str(out) in said and "reference:" in said
    (out / "stale").touch()
    assert fresh_folder(out) == out and [path.name for path in out.iterdir()] == [MARK]


@pytest.mark.parametrize("kind, message", [
    ("missing", "no such file"), ("folder", "is a folder"), ("empty", "is empty"), ("text", "cannot be read as audio"),
    ("no samples", "holds no samples"), ("nan", "not numbers"),
])  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_and_old_output_stays(bundle_folder, tmp_path, capsys, kind, message):
    wav, out = tmp_path / "my recording.wav", tmp_path / "out"
    fresh_folder(out)
    (out / "kept").touch()
    match kind:
        case "folder":
            wav.mkdir()
        case "empty":
            wav.touch()
        case "text":
            wav.write_text("hello")
        case "no samples":
            soundfile.write(wav, np.zeros(0), 16000)
        case "nan":
            soundfile.write(wav, np.full(1600, np.nan), 16000, subtype="FLOAT")
    assert demo.main(["--bundle", str(bundle_folder), "--output", str(out), "--wav", str(wav)]) == 2
    said = capsys.readouterr().err
    assert message in said and "my recording.wav" in said and (out / "kept").exists()


def test_a_recording_of_any_rate_and_channels_is_taken(tmp_path):
    soundfile.write(tmp_path / "stereo file.flac", np.full((4410, 2), [0.2, 0.4]), 44100)
    recording = own_recording(tmp_path / "stereo file.flac")
    assert recording.name == "stereo_file" and recording.rate == 44100
    assert recording.samples == pytest.approx(np.full(4410, 0.3), abs=1e-3)


def test_a_folder_that_no_demo_made_is_left_alone(bundle_folder, tmp_path, capsys):
    (tmp_path / "thesis.txt").touch()
    assert demo.main(["--bundle", str(bundle_folder), "--output", str(tmp_path), "--no-asr"]) == 2
    assert "no demo made it" in capsys.readouterr().err and (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("output", ["/proc/x", "/dev/null", "x" * 5000, "file/x"])
def test_an_output_that_cannot_be_made_is_named(bundle_folder, tmp_path, capsys, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert demo.main(["--bundle", str(bundle_folder), "--output", output, "--no-asr"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "OUT=" in error


@pytest.mark.parametrize("flag", ["--segment-ms", "--jobs"])
def test_numbers_below_one_are_refused(bundle_folder, tmp_path, capsys, flag):
    assert demo.main(["--bundle", str(bundle_folder), "--output", str(tmp_path / "out"), flag, "0"]) == 2
    assert f"{flag} 0" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_recording_of_the_last_demo_is_not_removed(bundle_folder, tmp_path, capsys):
    out = fresh_folder(tmp_path / "out")
    soundfile.write(out / "source.wav", np.full(1600, 0.1), 16000)
    arguments = ["--bundle", str(bundle_folder), "--output", str(out), "--wav", str(out / "source.wav"), "--no-asr"]
    assert demo.main(arguments) == 2
    assert "is emptied first" in capsys.readouterr().err and (out / "source.wav").is_file()


def test_opposite_phase_and_what_is_left_of_a_recording(tmp_path):
    speech = speechlike(1.0)
    soundfile.write(tmp_path / "in.flac", np.stack([speech, -speech], axis=1), 16000)
    assert np.square(own_recording(tmp_path / "in.flac").samples).sum() > 0.9 * np.square(speech).sum()
    soundfile.write(tmp_path / "in.flac", speechlike(4.0), 16000)
    data = (tmp_path / "in.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    assert len(own_recording(tmp_path / "cut.flac").samples) > 16000


def test_a_missing_bundle_says_how_to_make_one(tmp_path, capsys):
    assert demo.main(["--bundle", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert "train.sh makes a bundle" in capsys.readouterr().err


def test_a_sentence_outside_the_domain_gets_near_ones(monkeypatch):
    grammar = SimpleNamespace(translate=lambda text: None, nearest=lambda text, n: ["uno", "dos", "tres"])
    monkeypatch.setattr(demo, "_quickstart", lambda name: grammar)
    with pytest.raises(DemoError, match="(?s)la luna.*  uno\n  dos\n  tres"):
        demo.spoken_sentence("la luna")
    with pytest.raises(DemoError, match="empty"):
        demo.spoken_sentence("  ")


def test_a_sentence_of_the_domain_is_spoken():
    pytest.importorskip("espeakng_loader")
    if not (demo.QUICKSTART / "grammar.py").exists():
        pytest.skip("no quickstart grammar")
    likely = demo._quickstart("grammar").nearest("¿Dónde está la estación?", 1)[0]
    recording = demo.spoken_sentence(likely)
    assert recording.target and len(recording.samples) > 8000 and np.abs(recording.samples).max() > 0.1


def test_a_recording_that_could_not_be_read_has_no_translation(bundle_folder, tmp_path, capsys, monkeypatch):
    """It passes as a wav file, but its samples are no audio: it is refused at once, and where it was not, by the
    agent; the run says so and fails."""
    soundfile.write(tmp_path / "loud.wav", 1e6 * np.ones(16000), 16000, subtype="FLOAT")
    flags = ["--wav", str(tmp_path / "loud.wav"), "--bundle", str(bundle_folder), "--no-asr", "--jobs", "1"]
    assert demo.main([*flags, "--output", str(tmp_path / "none")]) == 2
    assert "loud.wav: samples: floats up to 1e+06" in capsys.readouterr().err
    monkeypatch.setattr("echostream_plugin.evaluation.demo.to_mono", lambda samples, rate: samples)
    assert demo.main([*flags, "--output", str(tmp_path / "out")]) == 1
    told = capsys.readouterr()
    assert "loud: could not be read, there is no translation: samples: floats up to 1e+06" in told.err
    assert "translation: (nothing)" in told.out


def test_people_are_played_too_with_the_licence_beside_them(bundle_folder, tmp_path, capsys):
    people, out = tmp_path / "people", tmp_path / "out"
    people.mkdir()
    soundfile.write(people / "hello.flac", speechlike(1.0, seed=5), 16000)
    columns = ("file", "prompt", "source", "target", "seconds", "speaker", "licence")
    lines = columns, ("hello.flac", "hello", "s1", "t1", "1.0", "A. Speaker", "CC BY-SA 3.0")
    (people / "recordings.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    arguments = ["--bundle", str(bundle_folder), "--output", str(out), "--no-asr", "--jobs", "1"]
    assert demo.main([*arguments, "--recordings", str(people)]) == 0
    summary = (out / "summary.txt").read_text().splitlines()
    assert [line for line in summary if "hello" in line and "A. Speaker, CC BY-SA 3.0" in line]
    assert any(line.startswith("human: 0 of 1 exactly right") for line in summary)
    html = (out / "index.html").read_text()
    assert "hello/together.wav" in html and (out / "hello" / "together.wav").is_file() and "A. Speaker" in html
    capsys.readouterr()
    assert demo.main([*arguments, "--recordings", str(tmp_path / "none")]) == 2
    assert "recordings.tsv: no such table" in capsys.readouterr().err
