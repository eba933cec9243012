"""Human prompts: read from packages without dpkg, their texts put right, split by name for ever."""

import subprocess

import numpy as np
import pytest

from tests.quickstart import sources

pytest.importorskip("av")

import corpus_text  # noqa: E402
import human  # noqa: E402
import human_text  # noqa: E402
from waves import read_wav  # noqa: E402

from echostream_plugin.data.tables import read_table  # noqa: E402


@pytest.fixture(scope="module")
def files():
    return sources.prompt_files()


@pytest.fixture(scope="module")
def debs(files, tmp_path_factory):
    """The packages as .deb files: sounds and texts of each language apart."""
    folder = tmp_path_factory.mktemp("debs")
    for kind, part in (("g722", "/sounds/"), ("texts", "/doc/")):
        chosen = {name: content for name, content in files.items() if part in name}
        (folder / f"asterisk-core-sounds-{kind}_1.6.1-1_all.deb").write_bytes(sources.deb(chosen))
    return folder


def test_packages_and_an_unpacked_folder_give_the_same(debs, files, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    packed, unpacked = human.read_recordings(debs), human.read_recordings(tmp_path)
    assert packed == unpacked
    assert len(packed.sounds["fr"]) == 24 and packed.texts["en"]["vm-next"] == "Press 6 to play the next message."


def test_a_damaged_package_and_a_wrong_folder_are_named(tmp_path, debs):
    with pytest.raises(human.HumanError, match="asterisk-core-sounds-es"):
        human.read_recordings(tmp_path)
    broken = tmp_path / "asterisk-core-sounds-es_1.deb"
    broken.write_bytes(b"<html>not found</html>")
    with pytest.raises(human.HumanError, match="apt-get download asterisk-core-sounds-es"):
        human.read_recordings(tmp_path)
    whole = next(debs.glob("*g722*")).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(human.HumanError, match="cannot be unpacked"):
        human.read_recordings(tmp_path)


def test_without_apt_the_error_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setattr(human.shutil, "which", lambda name: None)
    with pytest.raises(human.HumanError, match="asterisk-core-sounds-ru-g722.*--human-debs FOLDER"):
        human.download(tmp_path)


def test_apt_that_fails_is_quoted(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 100, "", "Reading\nE: Unable to locate package")
    monkeypatch.setattr(human.shutil, "which", lambda name: "/usr/bin/apt-get")
    monkeypatch.setattr(human.subprocess, "run", lambda *arguments, **keywords: failed)
    with pytest.raises(human.HumanError, match="Unable to locate package.*run apt-get update"):
        human.download(tmp_path)


def test_without_recordings_the_tables_are_empty_and_a_note_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(human.shutil, "which", lambda name: None)
    corpus_text.prepare_prompts(tmp_path, None)
    assert "no human recordings" in capsys.readouterr().out
    assert read_table(tmp_path / "text" / "prompts.tsv") == read_table(tmp_path / "unlabelled" / "test.tsv") == []


def test_the_split_hangs_on_the_name_alone():
    assert [human.split_of(name) for name in ("vm-next", "conf-locked", "conf-kicked", "vm-login", "hello-world")] == [
        "test", "test", "train", "train", "train"
    ]  # fmt: skip
    share = sum(human.split_of(f"prompt-{n}") == "test" for n in range(2000)) / 2000
    assert share == pytest.approx(0.25, abs=0.03)


def test_prompts_are_paired_by_name_and_none_of_the_test_is_trained_on(debs):
    prompts, dropped = human.parallel_prompts(human.read_recordings(debs))
    assert {prompt.name: prompt.split for prompt in prompts} == {
        "conf-kicked": "train", "conf-locked": "test", "vm-next": "test", "vm-undeleted": "train",
    }  # fmt: skip
    assert dropped["conf-lockednow"] == "a test prompt says the same" and "no words" in dropped["beep"]
    by_name = {prompt.name: prompt for prompt in prompts}
    assert by_name["vm-next"].source == "Marque el número seis para escuchar el próximo mensaje."
    assert by_name["vm-next"].target == "Press six to play the next message."
    assert by_name["vm-next"].id == "human_vm_next"


def test_a_recording_that_cannot_hold_its_text_is_left_out(files):
    sounds = {"es": {"conf-kicked": sources.g722(0.4)}}
    said = {"conf-kicked": "Ha sido expulsado por el sistema de esta conferencia"}
    texts = {"es": said, "en": said}
    prompts, dropped = human.parallel_prompts(human.Recordings(sounds, texts))
    assert not prompts and "letters" in dropped["conf-kicked"]


def test_decoding_gives_16_khz_floats_and_nothing_for_an_empty_file():
    wave = human.decode_g722(sources.g722(1.0))
    assert wave.dtype == np.float32 and wave.size == 16000 and 0.02 < np.abs(wave).max() < 1
    assert human.decode_g722(b"").size == 0


def test_other_languages_are_stored_without_text(debs, tmp_path):
    human.store_unlabelled(tmp_path, human.read_recordings(debs))
    splits = {split: read_table(tmp_path / f"{split}.tsv") for split in ("train", "dev", "test")}
    assert sum(map(len, splits.values())) == 24 and len(splits["test"]) == 24 - len(splits["train"] + splits["dev"])
    assert {row["language"] for row in splits["train"]} == {"fr"} and all(splits.values())
    assert all((tmp_path / row["wav"]).is_file() for rows in splits.values() for row in rows)


@pytest.mark.parametrize(
    "written,spoken",
    [
        ("Por favor ingrese su numero de agente", "Por favor ingrese su número de agente"),
        ("Marque 2 paracambiar de carpeta, 3 para salir.", "Marque dos para cambiar de carpeta, tres para salir."),
        ("...para salir del menú.", "Para salir del menú."),
        ("Para salir del menÃº", "Para salir del menú"),
        ("Ya esta en la conferencia.", "Ya está en la conferencia."),
        ("Clave invalida para esta conferencia.", "Clave inválida para esta conferencia."),
        ("Esta usted ahora en modo mudo.", "Está usted ahora en modo mudo."),
        ("Lo siento, pero no se quien lo ha enviado.", "Lo siento, pero no sé quién lo ha enviado."),
        ("En que carpeta desea guardar el mensaje ?", "¿En qué carpeta desea guardar el mensaje?"),
        ("Entrada incorrecta. Buzon?", "Entrada incorrecta. ¿Buzón?"),
        ("Sus saludos [temporales] estan en uso", "Sus saludos temporales están en uso"),
        ("[ tono de error ]", None), ("(beep)", None), ("", None), ("marque 500 o 28.8", None), ("X-Ray", "X-Ray"),
    ],
)  # fmt: skip
def test_spanish_texts_are_put_right(written, spoken):
    assert human_text.spanish(written) == spoken


@pytest.mark.parametrize(
    "written,spoken",
    [
        ("I'm sorry, that number is not valid.", "I am sorry, that number is not valid."),
        ("Press 10 when done. (simple tone sound plays)", "Press ten when done."),
        ("...callers waiting", "Callers waiting"),
        ("Press * or # to exit", "Press star or pound to exit"),
        ("[ascending tones]", None),
    ],
)
def test_english_texts_are_put_right(written, spoken):
    assert human_text.english(written) == spoken


@pytest.mark.parametrize(
    "name,language,written,spoken",
    [
        ("vm-next", "es", "Marque 6 para escuchar", "Marque el número 6 para escuchar"),
        ("conf-usermenu", "es", "marque 1 para eso, 4 o 6, u 8", "marque número 1 para eso, número 4 o 6, o número 8"),
        ("vm-mismatch", "en", "The passwords did not match.  Please try again.", "The passwords did not match."),
        ("vm-login", "es", "Marque 6 para escuchar", "Marque 6 para escuchar"),
        ("vm-next", "en", "Press 6", "Press 6"),
        ("phonetic/g_p", "es", "Gato", ""),
        ("letters/q", "es", "q", "cu"),
    ],
)
def test_what_is_said_otherwise_than_written(name, language, written, spoken):
    assert human_text.as_spoken(written, name, language) == spoken


def test_the_first_of_two_entries_counts():
    assert human_text.parse_list("; a: comment\na: uno\n\na: dos\nb:\n") == {"a": "uno", "b": ""}


def test_the_bundled_recordings_are_test_prompts_with_their_licence():
    folder = sources.QUICKSTART / "recordings"
    rows = read_table(folder / "recordings.tsv")
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.flac")} and len(rows) >= 4
    for row in rows:
        assert human.split_of(row["prompt"]) == "test" and len(row["source"].split()) >= 4
        assert read_wav(folder / row["file"]).size / 16000 == pytest.approx(float(row["seconds"]), abs=0.01)
    said = (folder / "LICENSE").read_text()
    assert "CC BY-SA 3.0" in said and "Allison Smith" in said and "asterisk-core-sounds-es-g722" in said
