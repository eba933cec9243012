"""The recipes' details: CMVN of the training split alone, units that say which they are, jobs that memory has room for,
alphabets of thousands of characters."""

import argparse
import json
import shutil

import numpy as np
import pytest
import soundfile

from echostream_plugin.config import ConfigError
from echostream_plugin.data import DataError, parallel
from echostream_plugin.data.cvss import Corpus
from echostream_plugin.data.feature_zip import index_path, read_index, read_member
from echostream_plugin.data.layout import LIST_COLUMNS
from echostream_plugin.data.manifests import build_text
from echostream_plugin.data.subwords import alphabet_size, train_subwords
from echostream_plugin.data.tables import GrowingFile, read_table, write_table
from echostream_plugin.data.units import UnitsFile, note_units, units_digest
from echostream_plugin.inference.words import normalise
from tests.data_prep import miniature_cvss
from tests.data_prep.miniature_cvss import CENTRES, ToyFeatures
from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

features_step, units_step = load_script("cvss/build_features"), load_script("cvss/build_units")
manifests_step = load_script("cvss/build_manifests")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = miniature_cvss.build(tmp_path_factory.mktemp("cvss"), "fr")
    for number in (10, 11, 12, 20, 21, 22):  # else the other splits sound as the training split does
        clip = corpus.covost / "clips" / f"common_voice_fr_{number}.mp3"
        soundfile.write(clip, 0.1 * speechlike(0.9, 48000, seed=number), 48000, format="MP3")
    features_step.build(corpus)
    units_step.build(corpus, ToyFeatures, CENTRES)
    manifests_step.build(corpus)
    return corpus


def test_cmvn_is_of_the_training_split_alone(corpus):
    index = read_index(corpus.feature_zip)
    frames = [read_member(corpus.feature_zip, index[row["id"]]) for row in corpus.utterances("train")]
    everything = [read_member(corpus.feature_zip, entry) for entry in index.values()]
    assert len(everything) == 3 * len(frames) == 9
    with np.load(corpus.output / "gcmvn.npz") as stored:
        for name, number in (("mean", np.mean), ("std", np.std)):
            assert np.allclose(stored[name], number(np.concatenate(frames), axis=0), atol=1e-3)
            assert not np.allclose(stored[name], number(np.concatenate(everything), axis=0), atol=1e-3)


def test_lists_are_in_the_order_of_their_corpora(corpus):
    """The manifest in Common Voice's order, SimulEval's lists in CVSS's, which is the other way round here."""
    for split in ("train", "dev", "test"):
        rows = read_table(corpus.data_folder / f"{split}.tsv")
        lists = corpus.output / "simuleval" / split
        read = {name: (lists / f"{name}.txt").read_text(encoding="utf-8").splitlines()
                for name in ("wav_list", "target", "src", "unit")}  # fmt: skip
        assert [row["tgt_audio"] for row in reversed(rows)] == read["unit"]
        assert [row["tgt_text"] for row in reversed(rows)] == read["target"]
        assert [f"{row['id']}.mp3" for row in reversed(rows)] == [wav.rsplit("/", 1)[1] for wav in read["wav_list"]]
        for kind, column in (("src", "src_text"), ("txt", "tgt_text")):
            lines = (corpus.data_folder / f"{split}.{kind}").read_text(encoding="utf-8").splitlines()
            assert lines == [normalise(row[column]) for row in rows] == [normalise(line) for line in lines]
            assert kind == "txt" or lines == [normalise(line) for line in read["src"][::-1]] == read["src"][::-1]
        listed = read_table(corpus.list_path(split))
        assert [row["id"] for row in listed] == [row["id"] for row in rows]
        assert [row["src_text"] for row in listed] == [row["src_text"] for row in rows]


def test_a_table_that_is_not_finished_has_no_name(tmp_path):
    with pytest.raises(ZeroDivisionError), GrowingFile(tmp_path / "t.tsv") as table:
        assert (table.add("é"), table.add("b")) == (0, 3)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_units_are_read_by_name_and_damage_is_named(tmp_path):
    (tmp_path / "u.txt").write_text("é|1 2\nb|\nc|3 x\n", encoding="utf-8")
    units = UnitsFile(tmp_path / "u.txt")
    assert (units["b"], units["é"]) == ([], [1, 2]) and "d" not in units
    with pytest.raises(DataError, match="u.txt: .*expected lines"):
        units["c"]


def test_data_say_which_units_they_hold(corpus, tmp_path):
    digest = units_digest(corpus.data_folder)
    assert len(digest) == 64 and digest == units_digest(corpus.output / "units")
    assert digest == note_units(tmp_path, CENTRES) != note_units(tmp_path, CENTRES + 1e-3)
    assert json.loads((tmp_path / "kmeans.json").read_text())["clusters"] == 4
    assert units_digest(tmp_path / "nowhere") == ""


def test_units_of_other_tables_are_named(corpus, tmp_path):
    other = Corpus(corpus.covost, corpus.cvss, tmp_path, corpus.language)
    shutil.copytree(corpus.output / "units", tmp_path / "units")
    for path in (corpus.feature_zip, index_path(corpus.feature_zip)):
        shutil.copy(path, tmp_path)
    lines = other.units_path("dev").read_text().splitlines(keepends=True)
    other.units_path("dev").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match="units/dev.txt: does not know utterance common_voice_fr_12"):
        manifests_step.build(other)


def test_pieces_are_made_of_normalised_training_text_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("echostream_plugin.data.manifests.train_subwords",
                        lambda folder, name, sentences, *rest: seen.append(list(sentences)))  # fmt: skip
    monkeypatch.setattr("echostream_plugin.data.manifests.write_task_table", lambda *rest: None)
    corpus = Corpus(tmp_path, tmp_path, tmp_path, "fr")
    for split in ("train", "dev", "test"):
        row = {"id": "a", "src_wav": "s", "tgt_wav": "t", "src_text": f"Où, {split} ?", "tgt_text": f"Where's {split}!"}
        write_table(corpus.list_path(split), LIST_COLUMNS, [row])
    build_text(corpus, 45, 1)
    assert seen == [["où train"], ["wheres train"]]


def test_a_vocoder_of_other_units_makes_no_bundle(corpus, tmp_path, caplog):
    pytest.importorskip("fairseq")
    from echostream_plugin.fairseq_ext.loading import compare_units

    vocoder = tmp_path / "vocoder"
    vocoder.mkdir()
    compare_units(corpus.data_folder, vocoder)
    assert "vocoder: has no kmeans.json, so nobody knows" in caplog.text
    note_units(vocoder, CENTRES)
    caplog.clear()
    compare_units(corpus.data_folder, vocoder)
    assert not caplog.text
    note_units(vocoder, CENTRES * 2)
    with pytest.raises(ConfigError, match="vocoder: speaks the units of another k-means"):
        compare_units(corpus.data_folder, vocoder)


def test_jobs_are_those_that_memory_has_room_for(monkeypatch):
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(parallel, "free_gigabytes", lambda: 10.0)
    args = argparse.Namespace(jobs=None, ray=None, merge=None)
    assert parallel.workers_of(args, gigabytes_each=2.0).jobs == 4
    assert parallel.workers_of(args, gigabytes_each=0.1).jobs == parallel.workers_of(args).jobs == 16
    assert parallel.workers_of(args, gigabytes_each=50.0).jobs == 1
    assert parallel.workers_of(argparse.Namespace(jobs=9, ray=None, merge=None), gigabytes_each=50.0).jobs == 9


def test_ray_begins_no_actor_that_it_has_no_room_for():
    cluster = argparse.Namespace(cluster_resources=lambda: {"CPU": 2.0, "GPU": 1.0})
    actors = [parallel.Workers(jobs, "", gpus_each)._actors(cluster)
              for jobs, gpus_each in ((None, 0), (1, 0), (9, 0), (None, 0.25), (9, 0.25))]  # fmt: skip
    assert actors == [2, 1, 2, 4, 4]
    with pytest.raises(DataError, match="no GPU that is free"):
        parallel.Workers(None, "", 2)._actors(cluster)


def test_free_memory_is_a_number_of_gigabytes():
    assert 0 < parallel.free_gigabytes() < 100_000


def test_many_characters_are_seen_on_either_side_whatever_the_language_is_called(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("echostream_plugin.data.manifests.train_subwords", lambda folder, *rest: seen.setdefault(
        folder.name, rest[-1]) and None)  # fmt: skip
    monkeypatch.setattr("echostream_plugin.data.manifests.write_task_table", lambda *rest: None)
    corpus = miniature_cvss.Corpus(tmp_path, tmp_path, tmp_path / "out", "xx")
    row = dict.fromkeys(("id", "src_wav", "tgt_wav"), "x") | {"src_text": "abc", "tgt_text": "".join(
        chr(0x4E00 + number) for number in range(501))}  # fmt: skip
    for split in ("train", "dev", "test"):
        write_table(corpus.list_path(split), LIST_COLUMNS, [row])
    build_text(corpus, 45, 1)
    assert seen == {"src_unigram45": 1.0, "tgt_unigram45": 0.9995}


CHARACTERS = [chr(0x4E00 + number) for number in range(200)]
CHINESE = ["".join(CHARACTERS[(10 * row + column) % 150] for column in range(10)) for row in range(190)]
CHINESE += ["".join(CHARACTERS[150 + (5 * row + column) % 50] for column in range(10)) for row in range(10)]


def test_an_alphabet_that_does_not_fit_is_named(tmp_path):
    assert alphabet_size(CHINESE, 1.0) == 201 > alphabet_size(CHINESE, 0.97)
    with pytest.raises(DataError, match="spm.model: the text has an alphabet of 201 .* in 100 subwords .* 205 at"):
        train_subwords(tmp_path, "spm", CHINESE, 100)
    assert train_subwords(tmp_path, "spm", CHINESE, 205).get_piece_size() == 205


def test_rare_characters_of_chinese_and_japanese_take_no_pieces(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr("echostream_plugin.data.manifests.train_subwords", lambda folder, *rest: seen.setdefault(
        (folder.parent.name, folder.name), rest[-1]) and None)  # fmt: skip
    monkeypatch.setattr("echostream_plugin.data.manifests.write_task_table", lambda *rest: None)
    for language in ("zh-CN", "fr"):
        corpus = miniature_cvss.Corpus(tmp_path, tmp_path, tmp_path / language, language)
        for split in ("train", "dev", "test"):
            write_table(corpus.list_path(split), LIST_COLUMNS, [dict.fromkeys(LIST_COLUMNS, "x")])
        build_text(corpus, 45, 1)
    coverages = {(language, side): seen[language, f"{side}_unigram45"] for language, side in
                 (("zh-CN", "src"), ("zh-CN", "tgt"), ("fr", "src"), ("fr", "tgt"))}  # fmt: skip
    assert coverages == {("zh-CN", "src"): 0.9995, ("zh-CN", "tgt"): 1.0, ("fr", "src"): 1.0, ("fr", "tgt"): 1.0}
