"""CVSS-C preparation on a miniature of it: three clips a split, in three languages; toy features instead of HuBERT."""

import contextlib
import os
import runpy
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile
import yaml

from echostream_plugin.data import DataError
from echostream_plugin.data.feature_zip import read_index, read_member
from echostream_plugin.data.layout import SPLITS
from echostream_plugin.data.tables import read_table
from echostream_plugin.inference.features import features_of
from tests.data_prep.miniature_cvss import CENTRES, ENGLISH, SOURCE, ToyFeatures
from tests.scripts.conftest import ROOT
from tests.scripts.cvss.steps import (
    check_script,
    copy_of,
    downloads_script,
    features_step,
    made,
    manifests_step,
    prepare,
    text_step,
    units_step,
)


@pytest.mark.parametrize("language", SOURCE)
def test_every_step_leaves_streamspeechs_files(originals, tmp_path, language, capsys):
    corpus = copy_of(originals, "whole", tmp_path, language)
    prepare(corpus)
    train = read_table(corpus.data_folder / "train.tsv")
    assert [row["id"] for row in train] == [f"common_voice_{language}_0{clip}" for clip in range(3)]
    index = read_index(corpus.feature_zip)
    for row in train:
        path, offset, size = row["src_audio"].rsplit(":", 2)
        assert (corpus.data_folder / path).resolve() == corpus.feature_zip.resolve()
        entry = index[row["id"]]
        assert (int(offset), int(size), int(row["src_n_frames"])) == (entry["offset"], entry["size"], entry["frames"])
        units = row["tgt_audio"].split()
        assert len(units) == int(row["tgt_n_frames"]) > 1
        assert all(unit != following for unit, following in zip(units, units[1:], strict=False))
        assert row["src_text"] in SOURCE[language] and row["tgt_text"] in ENGLISH
    clip = corpus.covost / "clips" / f"common_voice_{language}_00.mp3"
    wanted = features_of(*soundfile.read(clip, dtype="float32"), np.zeros(80), np.ones(80))
    assert np.allclose(read_member(corpus.feature_zip, index[f"common_voice_{language}_00"]), wanted)
    for split in SPLITS:
        assert len(read_table(corpus.output / "tgt_unigram45" / f"{split}.tsv", ("id", "tgt_text"))) == 3
        lists = corpus.output / "simuleval" / split
        # CVSS's order, as StreamSpeech's lists
        assert (lists / "target.txt").read_text().splitlines() == ENGLISH[::-1]
        assert len((lists / "wav_list.txt").read_text().splitlines()) == 3
    if language == "fr":
        assert (lists / "src.txt").read_text().splitlines()[0] == "deux cafés sil vous plaît"
    tasks = yaml.safe_load((corpus.data_folder / "config_mtl_asr_st_ctcst.yaml").read_text())
    for task in tasks.values():
        assert (corpus.data_folder / task["dict"]).is_file()
        assert all((corpus.data_folder / task["data"] / f"{split}.tsv").is_file() for split in SPLITS)
    assert check_script.main([str(corpus.output), "--clusters", "4", "--deep"]) == 0
    assert "all is well" in capsys.readouterr().out


def test_a_recording_that_is_missing_or_broken_is_left_out_and_named(corpus, capsys):
    with pytest.raises(DataError, match="09.mp3: no such recording, nor 0 others of 11.*--max-missing 10"):
        features_step.build(corpus)
    wavs = corpus.cvss / "dev"
    (wavs / "common_voice_fr_11.mp3.wav").write_bytes(b"not audio")
    soundfile.write(wavs / "common_voice_fr_12.mp3.wav", np.zeros(300), 24000)
    prepare(corpus)
    skipped = {row["id"]: row["why"] for row in read_table(corpus.output / "skipped.tsv")}
    assert sorted(skipped) == [f"common_voice_fr_{n}" for n in ("08", "09", "11", "12")]
    assert "no such" in skipped["common_voice_fr_09"] and "not a readable" in skipped["common_voice_fr_08"]
    assert "no units" in skipped["common_voice_fr_11"]
    assert [row["id"] for row in read_table(corpus.data_folder / "dev.tsv")] == ["common_voice_fr_10"]
    assert "shorter than 25 ms" in capsys.readouterr().err
    assert check_script.main([str(corpus.output), "--clusters", "4", "--deep"]) == 0


def test_odd_texts_do_not_break_a_table_and_an_empty_translation_is_left_out(originals, tmp_path):
    corpus = copy_of(originals, "whole", tmp_path)
    table = corpus.cvss / "dev.tsv"
    text = table.read_text().replace("where is the hotel", "where\\is\u2028the \t hotel")
    table.write_text(text.replace("two coffees please", " "), encoding="utf-8")
    marks = corpus.cvss / "test.tsv"
    marks.write_text(marks.read_text().replace("two coffees please", "?!"))
    prepare(corpus)
    rows = read_table(corpus.data_folder / "dev.tsv")
    assert [row["tgt_text"] for row in rows] == ["the train is late", "where is the hotel"]
    skipped = (corpus.output / "skipped.tsv").read_text()
    assert "dev.tsv: no translation" in skipped and "test.tsv: no translation" in skipped


def test_fairseq_task_reads_the_prepared_data(corpus):
    pytest.importorskip("fairseq")
    from echostream_plugin.fairseq_ext.task import read_data_config, read_multitask_config

    prepare(corpus)
    read_data_config(corpus.data_folder / "config_gcmvn.yaml")
    config = read_multitask_config(corpus.data_folder / "config_mtl_asr_st_ctcst.yaml")
    assert set(config.get_all_tasks()) == {"target_unigram", "source_unigram", "ctc_target_unigram"}


def test_a_second_run_changes_nothing(corpus):
    prepare(corpus)
    before = made(corpus)
    prepare(corpus)
    assert made(corpus) == before


def test_steps_out_of_order_and_missing_tables_say_what_to_do(corpus, capsys):
    with pytest.raises(DataError, match="train.tsv: not made yet; run scripts/cvss/build_manifests.py"):
        text_step.build(corpus, 45, 1)
    with pytest.raises(DataError, match="src_fbank80.zip: no finished feature zip"):
        manifests_step.build(corpus)
    features_step.build(corpus, max_missing=50)
    with pytest.raises(DataError, match="train.txt: not made yet; run scripts/cvss/build_units.py"):
        manifests_step.build(corpus)
    corpus.feature_zip.unlink()
    (corpus.cvss / "dev.tsv").unlink()
    with pytest.raises(DataError, match="dev.tsv: no such table; unpack cvss_c_fr_en"):
        features_step.build(corpus)
    arguments = ["--covost", str(corpus.covost), "--cvss", str(corpus.cvss), "--jobs", "1"]
    assert features_step.main([*arguments, "--jobs", "0"]) == 1 and "at least 1" in capsys.readouterr().err
    hubert = [*arguments, "--hubert", "none.pt", "--kmeans", "none.bin"]
    assert units_step.main(hubert) == 1 and "none.bin" in capsys.readouterr().err
    assert units_step.main(arguments) == 1 and "--hubert and --kmeans" in capsys.readouterr().err
    assert text_step.main(arguments[:4]) == manifests_step.main(arguments[:4]) == 1
    assert features_step.main(["--covost", "nowhere", "--cvss", str(corpus.cvss)]) == 1
    assert "nowhere: no such folder; scripts/cvss/check_downloads.py" in capsys.readouterr().err
    assert features_step.main([*arguments, "--merge", "0"]) == 1 and "--merge 0" in capsys.readouterr().err
    assert units_step.main([*arguments, "--merge", "2", "--shard", "1/2"]) == 1
    with pytest.raises(SystemExit):
        features_step.main([*arguments, "--shard", "3/2"])
    assert "'3/2' is no shard" in capsys.readouterr().err
    table = corpus.covost / "covost_v2.fr_en.tsv"
    table.with_name(table.name + ".tar.gz").write_bytes(b"half an archive")
    table.unlink()
    assert features_step.main(arguments) == 1
    assert "covost_v2.fr_en.tsv.tar.gz: not whole" in capsys.readouterr().err


TOY_PYTHON = """#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.scripts.cvss.test_steps import run_step
sys.exit(run_step(sys.argv[1:]))
"""
ASKING = """#!/usr/bin/env bash
printf '%s\\n' "$@" > '{folder}/asked'
read -r status < '{folder}/answer'
cat '{folder}/said'
exit "$status"
"""


def run_step(words: list) -> int:
    """A step's script, with toy features in place of HuBERT's."""
    step = runpy.run_path(words[0])
    if words[0].endswith("build_units.py"):
        step["step"].__globals__["hubert_maker"] = lambda path, layer, device: ToyFeatures
    return step["main"](words[1:])


def write_program(path, content):
    path.write_text(content)
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def one_python(folder):
    """A program to take for Python, whose scripts all run in this process: it starts at once."""
    for name in ("asked", "answer"):
        os.mkfifo(folder / name)

    def serve():
        while words := (folder / "asked").read_text().splitlines():
            with open(folder / "said", "w") as said, contextlib.redirect_stdout(said):
                try:
                    status = run_step(words)
                except Exception as error:  # else the shell would wait for ever
                    print(repr(error))
                    status = 1
            (folder / "answer").write_text(f"{status}\n")

    served = threading.Thread(target=serve)
    served.start()
    try:
        yield write_program(folder / "python", ASKING.format(folder=folder))
    finally:
        (folder / "asked").write_text("")
        served.join()


def run_prepare(corpus, root, python, **turn):
    """prepare.sh for Spanish; what it says."""
    settings = {"KMEANS": root / "models" / "km.npy", "CLUSTERS": 4, "SUBWORDS": 45, "JOBS": 1, "PYTHON": python}
    command = ["bash", str(ROOT / "examples" / "cvss_c" / "prepare.sh"), "es", str(root)]
    environment = os.environ | {name: str(value) for name, value in (settings | turn).items()}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def spanish(originals, tmp_path):
    """A corpus and the folder it lies in, with a k-means model."""
    corpus, root = copy_of(originals, "whole", tmp_path, "es"), tmp_path / "data"
    (root / "models").mkdir()
    np.save(root / "models" / "km.npy", CENTRES)
    return corpus, root


def is_ready(said: str, corpus):
    assert "all is well" in said and f"ready: examples/cvss_c/train.sh {corpus.data_folder}" in said
    assert len(read_table(corpus.data_folder / "train.tsv")) == 3


def test_one_command_prepares_a_language(spanish, tmp_path):
    """prepare.sh on the miniature, every step a process. Toy features stand for HuBERT's."""
    python = write_program(tmp_path / "python", TOY_PYTHON.format(python=sys.executable, root=str(ROOT)))
    is_ready(run_prepare(*spanish, python), spanish[0])


def test_one_command_prepares_a_language_in_two_parts_that_are_joined(spanish, tmp_path):
    with one_python(tmp_path) as python:
        for turn in ({"SHARD": "1/2"}, {"SHARD": "2/2"}):
            assert f"part {turn['SHARD']} is made" in run_prepare(*spanish, python, **turn)
        is_ready(run_prepare(*spanish, python, MERGE="2"), spanish[0])


def test_prepare_says_how_it_is_used():
    result = subprocess.run(["bash", str(ROOT / "examples/cvss_c/prepare.sh")], capture_output=True, text=True)
    assert result.returncode == 2 and "prepare.sh LANG [ROOT]" in result.stdout and "MERGE=N" in result.stdout


def test_downloads_are_listed_with_their_names_pages_and_steps(originals, tmp_path, capsys):
    empty = ["--root", str(tmp_path), "--lang", "de"]
    assert downloads_script.main(empty) == 1
    out = capsys.readouterr().out
    for name in ("de.tar.gz", "covost_v2.de_en.tsv.tar.gz", "cvss_c_de_en_v1.0.tar.gz", "g_00500000", "config.json"):
        assert name in out
    assert "mhubert_base_vp_en_es_fr_it3.pt" in out and "L11_km1000.bin" in out and "15.1 GB" in out
    assert "7 of the downloads missing" in out
    corpus = copy_of(originals, "whole", tmp_path)
    models = tmp_path / "data" / "models"
    (models / "vocoder").mkdir(parents=True)
    for name in ("mhubert_base_vp_en_es_fr_it3.pt", "mhubert_base_vp_en_es_fr_it3_L11_km1000.bin"):
        (models / name).write_bytes(b"x")
    for name in ("g_00500000", "config.json"):
        (models / "vocoder" / name).write_bytes(b"x")
    there = ["--root", str(tmp_path / "data"), "--lang", "fr"]
    assert downloads_script.main(there) == 0
    assert "test: 3 of 3 English wavs" in capsys.readouterr().out
    next((corpus.cvss / "test").iterdir()).unlink()
    assert downloads_script.main(there) == 1 and "2 of 3 English wavs  <- not all" in capsys.readouterr().out
    shutil.rmtree(corpus.cvss / "test")
    (corpus.cvss / "cvss_c_fr_en_v1.0.tar.gz").write_bytes(b"x")
    assert downloads_script.main(there) == 1 and "not unpacked: tar -xzf" in capsys.readouterr().out
