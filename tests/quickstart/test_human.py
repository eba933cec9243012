"""Human prompts: read from packages without dpkg, their texts put right, split by name for ever."""

import gzip
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.quickstart import sources

pytest.importorskip("av")

import augment  # noqa: E402
import corpus_text  # noqa: E402
import human  # noqa: E402
import human_text  # noqa: E402
from waves import read_wav  # noqa: E402

from echostream_plugin.data.tables import read_table, write_table  # noqa: E402


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
        listed = path.suffix == ".gz"  # the lists as they are, or unpacked too
        (path.with_suffix("") if listed else path).write_bytes(gzip.decompress(content) if listed else content)
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


@pytest.mark.parametrize("seconds", [0.4, 12.0])
def test_a_recording_that_cannot_hold_its_text_is_left_out(seconds):
    sounds = {"es": {"conf-kicked": sources.g722(seconds)}}
    said = {"conf-kicked": "Ha sido expulsado por el sistema de esta conferencia"}
    texts = {"es": said, "en": said}
    prompts, dropped = human.parallel_prompts(human.Recordings(sounds, texts))
    assert not prompts and "letters" in dropped["conf-kicked"]


def test_a_recording_longer_than_the_longest_is_left_out():
    texts = dict.fromkeys(("es", "en"), {"a": "palabra " * 40})
    prompts, dropped = human.parallel_prompts(human.Recordings({"es": {"a": sources.g722(33.0)}}, texts))
    assert not prompts and dropped["a"].endswith(" s long")


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


def test_short_recordings_silence_and_tones_are_not_stored(tmp_path):
    names = {"hello": 1.5, "yes": 0.5, "silence/3": 3.0, "dialtone": 2.0, "beeperr": 2.0}
    sounds = {"fr": {name: sources.g722(seconds) for name, seconds in names.items()}}
    human.store_unlabelled(tmp_path, human.Recordings(sounds, {}))
    rows = [row for split in ("train", "dev", "test") for row in read_table(tmp_path / f"{split}.tsv")]
    assert [row["wav"] for row in rows] == [path.name for path in tmp_path.glob("*.flac")] == ["fr_hello.flac"]


def test_what_is_unlabelled_is_for_testing_where_what_is_labelled_is():
    names = [f"prompt-{n}" for n in range(2000)]
    splits = [human.unlabelled_split_of(name) for name in names]
    assert [split == "test" for split in splits] == [human.split_of(name) == "test" for name in names]
    assert splits.count("dev") / 2000 == pytest.approx(0.05, abs=0.015)


def training_rows(engine, count, letters):
    return [{"id": f"{engine}_{n}", "engine": engine, "source": "x" * letters, "wav": f"src_wav/{engine}_{n}.flac"}
            for n in range(count)]  # fmt: skip


def test_copies_are_planned_so_that_humans_have_their_share():
    planned = corpus_text.plan_copies([*training_rows("espeak", 10, 30), *training_rows("human", 2, 30)], 2, 0.5)
    assert sum(row["engine"] == "espeak" for row in planned) == 20
    assert sum(row["engine"] == "human" for row in planned) == 28  # 30 spoken by engines, 2 + 28 by humans
    copy = planned[1]
    assert (copy["id"], copy["of"], copy["from"], copy["wav"]) == (
        "espeak_0_a2", "espeak_0", "src_wav/espeak_0.flac", "src_wav/espeak_0_a2.flac")  # fmt: skip
    assert len({row["id"] for row in planned}) == 48
    assert len(corpus_text.plan_copies(training_rows("human", 3, 9), 1, 0.1)) == 3
    assert [corpus_text.chain_of(row) for row in (planned[0], planned[-1])] == [augment.SYNTHETIC, augment.HUMAN]


def test_nobody_says_in_training_what_a_human_test_prompt_says(tmp_path, monkeypatch):
    said = {"train": ["Sí. La conferencia ha sido bloqueada.", "El tren sale."], "dev": ["Hola."], "test": ["Hola."]}
    text = {split: [SimpleNamespace(id=f"{split}_{n}", source=source, target="x") for n, source in enumerate(sources)]
            for split, sources in said.items()}  # fmt: skip
    monkeypatch.setitem(sys.modules, "grammar", SimpleNamespace(build_text=lambda *arguments: text))
    prompts = [("human_a", "test", "¡La conferencia ha sido bloqueada!"), ("human_b", "train", "Marque seis."),
               ("human_c", "test", "El tren.")]  # fmt: skip
    rows = [dict(zip(corpus_text.PROMPT_COLUMNS, (*prompt, "x", "1.0"), strict=True)) for prompt in prompts]
    write_table(tmp_path / "text" / "prompts.tsv", corpus_text.PROMPT_COLUMNS, rows)
    tables = corpus_text.write_corpus_text(tmp_path, dict.fromkeys(said, 1), 1, ("espeak",))
    assert {split: [row["id"] for row in found] for split, found in tables.items()} == {
        "train": ["train_1", "human_b"], "dev": ["dev_0"], "test": ["test_0"], "human": ["human_a"],
    }  # fmt: skip


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
        ("[ tono de error ]", None), ("(beep)", None), ("", None), ("marque 500 o 28.8", None), ("marque 500", None),
        ("marque 2.8", None), ("Lo siento! Adiós.", "¡Lo siento! Adiós."), ("X-Ray", "X-Ray"),
    ],
)  # fmt: skip
def test_spanish_texts_are_put_right(written, spoken):
    assert human_text.spanish(written) == spoken


@pytest.mark.parametrize(
    "written,spoken",
    [
        ("I'm sorry, that number is not valid.", "I am sorry, that number is not valid."),
        ("Sorry. That's all.", "Sorry. That is all."),
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
