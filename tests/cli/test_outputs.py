"""No result of the command line is the input, or takes the place of a file of another run."""

import json
import os

import numpy as np
import pytest
import soundfile

from echostream_plugin.cli import main
from echostream_plugin.cli_translate import output_folders
from echostream_plugin.inference.errors import OutputError
from echostream_plugin.inference.results import RESULT_FILES, ResultWriter
from echostream_plugin.inference.runs import BESIDE, CHECKPOINT, claimed, translate_recording
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import speechlike, tiny_bundle


def translate(bundle, *arguments):
    return main(["translate", *map(str, arguments), "--bundle", str(bundle), "--max-tokens", "2", "--quiet"])


def speak(bundle, *arguments):
    return main(["speak", "t1 t3", *map(str, arguments), "--bundle", str(bundle), "--quiet"])


def tree(folder):
    """Every file below a folder, with its contents."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["speech.wav", "heard.wav"])
@pytest.mark.parametrize("flags", [[], ["--overwrite"], ["--restart"]])
def test_a_recording_is_never_a_result(bundle, tmp_path, monkeypatch, capsys, name, flags):
    """Named as a result, in the folder of the results."""
    soundfile.write(tmp_path / name, speechlike(0.5), 16000)
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    for recording in (name, tmp_path / name, f"../{tmp_path.name}/{name}"):
        assert translate(bundle, recording, "-o", ".", *flags) == 2
        assert "would overwrite it" in capsys.readouterr().err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("place", ["heard.wav", "words.json", CHECKPOINT, CHECKPOINT + ".part", f"{BESIDE}/speech.wav"])
def test_a_recording_is_not_reached_through_links(bundle, tmp_path, capsys, link, place):
    wav, out = tmp_path / "in.wav", tmp_path / "out"
    soundfile.write(wav, speechlike(0.5), 16000)
    (out / place).parent.mkdir(parents=True)
    link(wav, out / place)
    before = wav.read_bytes()
    assert translate(bundle, wav, "-o", out, "--overwrite") == 2 and "would overwrite it" in capsys.readouterr().err
    assert wav.read_bytes() == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_overwrite_replaces_links_and_not_what_they_lead_to(bundle, tmp_path, link):
    wav, out, precious = tmp_path / "in.wav", tmp_path / "out", tmp_path / "thesis.txt"
    soundfile.write(wav, speechlike(0.5), 16000)
    precious.write_text("precious")
    out.mkdir()
    link(precious, out / "source.txt")
    assert translate(bundle, wav, "-o", out) == 2
    assert translate(bundle, wav, "-o", out, "--overwrite") == 0
    assert precious.read_text() == "precious" and (out / "source.txt").read_text() != "precious"
    assert not (out / "source.txt").is_symlink()


def test_results_of_another_run_stay_until_the_new_ones_are_complete(bundle, tmp_path, capsys, monkeypatch):
    one, two, out = tmp_path / "one.wav", tmp_path / "two.wav", tmp_path / "out"
    soundfile.write(one, speechlike(1.0, seed=1), 16000)
    soundfile.write(two, speechlike(1.5, seed=2), 16000)
    assert translate(bundle, one, "-o", out) == 0
    before = tree(out)
    assert set(map(str, before)) == set(RESULT_FILES) - {"revised.wav"}  # which is asked for by --resynthesize
    assert translate(bundle, two, "-o", out) == 2 and "--overwrite" in capsys.readouterr().err
    assert translate(bundle, one, "-o", out) == 2 and tree(out) == before
    with monkeypatch.context() as patched:
        patched.setattr(TranslationSession, "finish_events", lambda self: 1 / 0)
        assert translate(bundle, two, "-o", out, "--overwrite") == 70
    assert {name: data for name, data in tree(out).items() if str(name) in RESULT_FILES} == before
    assert translate(bundle, two, "-o", out, "--overwrite") == 0  # goes on
    after = tree(out)
    assert set(after) == set(before) and after != before
    assert translate(bundle, two, "-o", tmp_path / "other") == 0 and tree(tmp_path / "other") == after


def test_a_run_that_failed_before_anything_was_said_leaves_nothing(bundle, tmp_path, capsys):
    out = tmp_path / "a" / "out"
    soundfile.write(tmp_path / "nan.wav", np.full(3200, np.nan), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", speechlike(1.0, 2000), 2000)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "many.wav", np.zeros((1000, 9)), 16000)
    for name, words in (
        ("nan.wav", "not a finite number"),
        ("slow.wav", "sample rate 2000"),
        ("empty.wav", "holds no samples"),
        ("many.wav", "9 channels"),
    ):
        assert translate(bundle, tmp_path / name, "-o", out) == 1
        error = capsys.readouterr().err
        assert words in error and name in error and error.count("\n") == 1
        assert not (tmp_path / "a").exists()


def test_a_folder_is_not_replaced(bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "in.wav", speechlike(0.5), 16000)
    (tmp_path / "out" / "speech.wav").mkdir(parents=True)
    assert translate(bundle, tmp_path / "in.wav", "-o", tmp_path / "out", "--overwrite") == 2
    assert "speech.wav: is a folder" in capsys.readouterr().err and len(tree(tmp_path)) == 1


def test_two_runs_do_not_share_a_folder(bundle, tmp_path, capsys):
    pytest.importorskip("fcntl")
    soundfile.write(tmp_path / "in.wav", speechlike(0.5), 16000)
    with claimed(tmp_path / "out"):
        assert translate(bundle, tmp_path / "in.wav", "-o", tmp_path / "out") == 1
        assert "another run is writing there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="cannot be made a folder"), claimed(tmp_path / "in.wav"):
        pass


def test_the_library_replaces_results_too_only_when_it_is_done(tmp_path):
    soundfile.write(tmp_path / "in.wav", speechlike(0.5), 16000)
    with ResultWriter(tmp_path / "out", 16000):
        pass
    session = TranslationSession(tiny_bundle(), max_tokens=2)
    translate_recording(session, tmp_path / "in.wav", 100, tmp_path / "out", 16000)
    assert (tmp_path / "out" / "events.jsonl").stat().st_size and not (tmp_path / "out" / BESIDE).exists()


def test_several_recordings_have_folders_of_their_names(tmp_path):
    names = ["a.wav", "x/A.wav", "x/a.mp3", "-", "..wav", "a-2.wav"]
    folders = output_folders([*map(type(tmp_path), names)], tmp_path)
    assert [folder.name for folder in folders] == ["a", "A-2", "a-3", "stdin", "recording", "a-2-2"]


def test_one_bad_recording_does_not_keep_the_others(bundle, tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", speechlike(0.5), 16000)
    soundfile.write(tmp_path / "fine.flac", speechlike(0.5), 16000)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    names = [tmp_path / name for name in ("bad.wav", "good.wav", "none.wav", "fine.flac")]
    assert translate(bundle, *names, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 3 and "2 of 4 recordings" in error[-1]
    assert "bad.wav" in error[-1] and "none.wav" in error[-1] and "good" not in error[-1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fine", "good"]


def test_spoken_files_are_not_what_is_read_nor_one_another(bundle, tmp_path, capsys):
    wav = tmp_path / "in.wav"
    soundfile.write(wav, speechlike(0.5), 16000)
    (tmp_path / "text.wav").write_text("t1")
    os.symlink(wav, tmp_path / "link.wav")
    before = tree(tmp_path)
    for flags, words in (
        (["-o", wav], "is there already"),
        (["-o", tmp_path / "link.wav"], "is there already"),
        (["-o", wav, "--source", wav, "--overwrite"], "is what is read"),
        (["-o", tmp_path / "link.wav", "--source", wav, "--overwrite"], "is what is read"),
        (["-o", tmp_path / "new.wav", "--times", wav, "--source", wav, "--overwrite"], "is what is read"),
        (["-o", tmp_path / "new.wav", "--times", tmp_path / "new.wav"], "name one file"),
        (["-o", tmp_path / "new.wav", "--times", tmp_path / "." / ".." / tmp_path.name / "new.wav"], "name one file"),
        (["-o", tmp_path / "new.wav", "--times", tmp_path / "new.unfinished.wav", "--overwrite"], "name one file"),
        (["-o", tmp_path / "new.raw"], "no kind of sound file"),
        (["-o", "/dev/null.wav/x.wav"], "no such folder"),
        (["-o", tmp_path / ("x" * 300 + ".wav")], "no name of a file"),
    ):
        assert speak(bundle, *flags) == 2, flags
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
        assert tree(tmp_path) == before
    arguments = ["speak", "--text-file", str(tmp_path / "text.wav"), "-o", str(tmp_path / "text.wav"), "--overwrite"]
    assert main([*arguments, "--bundle", str(bundle)]) == 2 and tree(tmp_path) == before


def test_spoken_files_are_replaced_when_the_new_ones_are_complete(bundle, tmp_path, capsys, monkeypatch):
    out, times = tmp_path / "out.wav", tmp_path / "times.json"
    assert speak(bundle, "-o", out, "--times", times) == 0
    before = tree(tmp_path)
    assert main(["speak", "zebra", "-o", str(out), "--overwrite", "--bundle", str(bundle)]) == 2
    assert tree(tmp_path) == before
    arguments = ["speak", "t8 t5y0. t2", "-o", str(out), "--times", str(times), "--overwrite", "--bundle", str(bundle)]
    with monkeypatch.context() as patched:
        patched.setattr("echostream_plugin.cli_speak.TextSpeaker.finish", lambda self: 1 / 0)
        assert main(arguments) == 70 and {out.read_bytes(), times.read_bytes()} == set(before.values())
    assert main(arguments) == 0
    assert set(tree(tmp_path)) == set(before) and out.read_bytes() not in before.values()
    assert [json.loads(line)["word"] for line in times.read_text().splitlines()] == ["t8", "t5y0", "t2"]
