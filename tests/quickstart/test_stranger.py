"""Recordings of a person for tests alone: found in another package, translated by the prompts of the same names."""

import io

import numpy as np
import pytest
import soundfile

from tests.quickstart import sources

pytest.importorskip("av")

import corpus_text  # noqa: E402
import human  # noqa: E402
import stranger  # noqa: E402
from waves import read_wav  # noqa: E402


def gsm(seconds):
    """Raw GSM of a tone that comes and goes."""
    time, file = np.arange(int(8000 * seconds)) / 8000, io.BytesIO()
    tone = 0.4 * np.sin(2 * np.pi * 300 * time) * np.abs(np.sin(3 * time))
    soundfile.write(file, tone, 8000, format="RAW", subtype="GSM610")
    return file.getvalue()


def english(folder):
    return human.read_recordings(folder).texts["en"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    (folder / "asterisk-core-sounds_1_all.deb").write_bytes(sources.deb(sources.prompt_files()))
    names = {"vm-next": 2.5, "conf-kicked": 3.0, "conf-locked": 1.0, "beep": 2.0, "pesos": 2.0}
    sounds = {f"./usr/share/asterisk/sounds/es/{name}.gsm": gsm(seconds) for name, seconds in names.items()}
    (folder / "asterisk-prompt-es-co_0_all.deb").write_bytes(sources.deb(sounds))
    return folder


def test_prompts_of_a_second_and_a_half_with_a_text_are_translated_by_their_names(packages):
    found = stranger.prompts(packages, english(packages))
    texts = {name: text for name, (_, text) in found.items()}
    assert texts == {
        "conf-kicked": "You have been kicked from this conference", "vm-next": "Press six to play the next message.",
    }  # fmt: skip
    wave = found["vm-next"][0]
    assert wave.dtype == np.float32 and abs(len(wave) / 16000 - 2.5) < 0.1
    peak = np.abs(np.fft.rfft(wave)).argmax() / len(wave) * 16000
    assert 0.2 < np.abs(wave).max() < 0.6 and abs(peak - 300) < 10


def test_the_lists_are_those_of_an_evaluation(packages, tmp_path):
    stranger.write_stranger(tmp_path, packages, english(packages))
    lists = tmp_path / "simuleval" / "stranger"
    wavs = (lists / "wav_list.txt").read_text().split()
    assert (lists / "target.txt").read_text().splitlines()[1] == "press six to play the next message"
    assert len(wavs) == 2 and len(read_wav(wavs[0])) == len(
        stranger.prompts(packages, english(packages))["conf-kicked"][0]
    )


def test_without_the_package_there_is_no_such_person(packages, tmp_path):
    (tmp_path / "debs").mkdir()
    core = packages / "asterisk-core-sounds_1_all.deb"
    (tmp_path / "debs" / core.name).write_bytes(core.read_bytes())
    stranger.write_stranger(tmp_path, tmp_path / "debs", english(packages))
    assert not (tmp_path / "simuleval").exists()
    assert human.read_recordings(packages) == human.read_recordings(tmp_path / "debs")  # and nobody else hears it


def test_the_packages_are_read_once_however_often_a_build_goes_on(packages, tmp_path, monkeypatch):
    corpus_text.prepare_prompts(tmp_path, str(packages))
    assert len((tmp_path / "simuleval" / "stranger" / "wav_list.txt").read_text().split()) == 2
    monkeypatch.setattr(stranger, "files_in", None)
    corpus_text.prepare_prompts(tmp_path, str(packages))
