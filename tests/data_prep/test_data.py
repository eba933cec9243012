"""Training data: the feature zip goes on after an interruption and fairseq's reader finds every member."""

import argparse
import json
import zipfile

import numpy as np
import pytest
import soundfile
import yaml

from echostream_plugin.data import DataError
from echostream_plugin.data.feature_zip import FeatureZip, Moments, index_path, read_index, read_member, read_skipped
from echostream_plugin.data.parallel import Shard, Workers
from echostream_plugin.data.subwords import load_subwords, train_subwords, write_configs, write_task_table
from echostream_plugin.data.tables import file_of_table, keyed_lines, read_table, write_table
from echostream_plugin.data.units import UnitsLog, load_centres, nearest_units, read_units
from echostream_plugin.inference.audio import read_mono
from echostream_plugin.inference.words import normalise
from echostream_plugin.units import reduce_units

FEATURES = {f"clip_{n}": np.random.default_rng(n).normal(size=(5 + n, 80)).astype(np.float32) for n in range(4)}
FEATURES["ñandú"] = FEATURES["clip_1"] + 1  # a name of more bytes than letters


def build_zip(path, interrupt_after=None, torn=b""):
    store = FeatureZip(path)
    for number, (name, features) in enumerate(FEATURES.items()):
        if number == interrupt_after:
            with open(store._part, "ab") as file:
                file.write(torn)
            store._zip.fp.close()
            store._zip.fp = None
            store._log.close()
            return
        if name not in store.members:
            store.add(name, features)
    store.close()


def test_an_interrupted_zip_goes_on_and_equals_a_whole_one(tmp_path):
    build_zip(tmp_path / "whole.zip")
    build_zip(tmp_path / "cut.zip", interrupt_after=2, torn=b"PK half a member")
    with open(tmp_path / "cut.zip.part.jsonl", "a") as journal:
        journal.write('{"id": "clip_2", "off')
    assert not (tmp_path / "cut.zip").exists()
    build_zip(tmp_path / "cut.zip")
    assert (tmp_path / "cut.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "cut.zip") as archive:
        assert archive.testzip() is None
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    index = read_index(tmp_path / "cut.zip")
    assert list(index) == list(FEATURES)
    for name, features in FEATURES.items():
        assert np.array_equal(read_member(tmp_path / "cut.zip", index[name]), features)
        assert index[name]["frames"] == len(features)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cut.zip", "cut.zip.jsonl", "whole.zip", "whole.zip.jsonl",
    ]  # fmt: skip


def test_fairseq_reads_a_member_by_offset_and_size(tmp_path):
    pytest.importorskip("fairseq")
    from fairseq.data.audio.audio_utils import get_features_or_waveform

    build_zip(tmp_path / "f.zip")
    entry = read_index(tmp_path / "f.zip")["clip_1"]
    read = get_features_or_waveform(f"{tmp_path}/f.zip:{entry['offset']}:{entry['size']}")
    assert np.array_equal(read, FEATURES["clip_1"])


def test_a_zip_that_is_not_there_or_lost_its_data_is_named(tmp_path):
    with pytest.raises(DataError, match="f.zip: no finished feature zip.*build_features.py"):
        read_index(tmp_path / "f.zip")
    build_zip(tmp_path / "f.zip", interrupt_after=2)
    (tmp_path / "f.zip.part").write_bytes(b"")
    with pytest.raises(DataError, match="f.zip.part: shorter than its journal"):
        FeatureZip(tmp_path / "f.zip")
    assert index_path(tmp_path / "f.zip").name == "f.zip.jsonl"


def test_members_beyond_four_gigabytes_are_found(tmp_path):
    """A whole CVSS-C pair's zip is larger; the first member here is a hole in a sparse file."""
    first = {"id": "hole", "offset": 38, "size": 5_000_000_000, "frames": 1, "crc": 0}
    with open(tmp_path / "f.zip.part", "wb") as file:
        file.truncate(first["offset"] + first["size"])
    (tmp_path / "f.zip.part.jsonl").write_text(json.dumps(first) + "\n")
    store = FeatureZip(tmp_path / "f.zip")
    for name, features in FEATURES.items():
        store.add(name, features)
    store.close()
    index = read_index(tmp_path / "f.zip")
    assert all(np.array_equal(read_member(tmp_path / "f.zip", index[name]), FEATURES[name]) for name in FEATURES)
    with zipfile.ZipFile(tmp_path / "f.zip") as archive:
        assert len(archive.read("clip_3.npy")) == index["clip_3"]["size"]


def test_a_zip_stopped_between_its_two_renamings_goes_on(tmp_path):
    build_zip(tmp_path / "whole.zip")
    build_zip(tmp_path / "cut.zip")
    (tmp_path / "cut.zip").rename(tmp_path / "cut.zip.part")
    store = FeatureZip(tmp_path / "cut.zip")
    assert list(store.members) == list(FEATURES)
    store.close()
    assert (tmp_path / "cut.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_a_skipped_utterance_is_remembered_and_not_in_the_index(tmp_path):
    store = FeatureZip(tmp_path / "f.zip")
    store.skip("clip_9", "no such\nfile")
    assert "clip_9" in store and "clip_0" not in store
    store.add("clip_0", FEATURES["clip_0"])
    store.close()
    assert list(read_index(tmp_path / "f.zip")) == ["clip_0"]
    assert read_skipped(tmp_path / "f.zip") == {"clip_9": "no such file"}


def test_processes_keep_the_order_and_stop_when_nobody_listens():
    items = [str(number) for number in range(200)]
    assert list(Workers(2).ordered(int, items, "numbers")) == list(range(200))
    results = Workers(2).ordered(int, items, "numbers")
    assert next(results) == 0
    results.close()
    with pytest.raises(ValueError, match="invalid literal"):
        list(Workers(2).ordered(int, [*items, "x"], "numbers"))


def test_a_damaged_journal_is_named(tmp_path):
    build_zip(tmp_path / "f.zip")
    index_path(tmp_path / "f.zip").write_bytes(b"\0\0\0\n")
    with pytest.raises(DataError, match="f.zip.jsonl: damaged"):
        read_index(tmp_path / "f.zip")


def test_shards_are_disjoint_and_together_everything():
    items = list(range(11))
    parts = [shard.take(items) for shard in Shard(1, 3).of_all()]
    assert sorted(sum(parts, [])) == items and max(map(len, parts)) - min(map(len, parts)) <= 1
    assert Shard.parse("2/3") == Shard(2, 3) and str(Shard(2, 3).place("a/f.zip")) == "a/parts/f.2-of-3.zip"
    assert str(Shard().place("a/f.zip")) == "a/f.zip"
    for text in ("0/3", "4/3", "a/b", "3", "-1/2"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no shard"):
            Shard.parse(text)


def test_moments_are_those_of_all_frames(tmp_path):
    moments = Moments()
    for features in FEATURES.values():
        moments.add(features)
    moments.save(tmp_path / "gcmvn.npz")
    frames = np.concatenate(list(FEATURES.values()))
    saved = np.load(tmp_path / "gcmvn.npz")
    assert np.allclose(saved["mean"], frames.mean(0), atol=1e-5) and np.allclose(saved["std"], frames.std(0), atol=1e-5)
    Moments.save(moments, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "gcmvn.npz").read_bytes()
    with pytest.raises(DataError, match="no training frames"):
        Moments().save(tmp_path / "none.npz")


def test_moments_keep_small_deviations_of_large_numbers_and_never_fall_to_zero(tmp_path):
    moments, noise = Moments(), np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)
    for frames in np.split(np.concatenate([30000 + noise, np.full((2000, 1), 7.3, np.float32)], axis=1), 20):
        moments.add(frames)
    moments.save(tmp_path / "gcmvn.npz")
    with np.load(tmp_path / "gcmvn.npz") as saved:
        assert np.allclose(saved["std"][:2], noise.std(0), rtol=1e-2)
        assert saved["std"][2] == pytest.approx(1e-4)  # fairseq's floor


def test_tables_survive_tabs_backslashes_and_missing_columns(tmp_path):
    write_table(tmp_path / "t.tsv", ("id", "text"), [{"id": "a", "text": 'one\ttwo\n"three\\'}])
    assert read_table(tmp_path / "t.tsv", ("id",)) == [{"id": "a", "text": 'one two "three'}]
    with pytest.raises(DataError, match="t.tsv: no column 'units'; it has id, text"):
        read_table(tmp_path / "t.tsv", ("units",))
    with pytest.raises(DataError, match="none.tsv: no such table"):
        read_table(tmp_path / "none.tsv")
    assert normalise("L'Assemblée, nationale !") == "lassemblée nationale"


def test_pieces_and_dictionary_have_the_same_numbers(tmp_path):
    sentences = [f"the {a} goes to the {b}" for a in ("train", "bus", "man") for b in ("hotel", "bank", "sea")] * 5
    processor = train_subwords(tmp_path / "src", "spm", sentences, 40)
    lines = (tmp_path / "src" / "spm.txt").read_text().splitlines()
    pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
    assert [line.split()[0] for line in lines] == pieces[4:]
    again = load_subwords(tmp_path / "src" / "spm.model")
    write_task_table(tmp_path / "src" / "dev.tsv", [{"id": "x", "text": "The train!"}], "text", again)
    assert read_table(tmp_path / "src" / "dev.tsv")[0]["tgt_text"].replace(" ", "").replace("▁", " ") == " the train"
    write_configs(tmp_path / "fbank2unit", tmp_path / "src" / "spm.txt", tmp_path / "src" / "spm.txt")
    tasks = yaml.safe_load((tmp_path / "fbank2unit" / "config_mtl_asr_st_ctcst.yaml").read_text())
    assert list(tasks) == ["target_unigram", "source_unigram", "ctc_target_unigram"]
    assert tasks["source_unigram"]["dict"] == "../src/spm.txt" and tasks["source_unigram"]["data"] == "../src"
    data = yaml.safe_load((tmp_path / "fbank2unit" / "config_gcmvn.yaml").read_text())
    assert data["global_cmvn"]["stats_npz_path"] == "../gcmvn.npz"
    with pytest.raises(DataError, match="no such SentencePiece model"):
        load_subwords(tmp_path / "none.model")


def test_the_yamls_hold_streamspeechs_values_and_each_task_its_dictionary(tmp_path):
    files = [tmp_path / name for name in ("src/s.txt", "tgt/t.txt", "g_00500000", "config.json")]
    write_configs(tmp_path / "fbank2unit", *files[:2], vocoder=files[2:])
    data = yaml.safe_load((tmp_path / "fbank2unit" / "config_gcmvn.yaml").read_text())
    assert data["transforms"] == {"*": ["global_cmvn"], "_train": ["global_cmvn", "specaugment"]}
    assert data["specaugment"]["freq_mask_F"] == 27 and data["specaugment"]["time_mask_T"] == 100
    assert data["vocoder"] == {"type": "code_hifigan", "checkpoint": str(files[2]), "config": str(files[3])}
    tasks = yaml.safe_load((tmp_path / "fbank2unit" / "config_mtl_asr_st_ctcst.yaml").read_text())
    found = {name: (task["decoder_type"], task["dict"], task["data"], task["loss_weight"],
                    task["decoder_args"]["decoder_layers"]) for name, task in tasks.items()}  # fmt: skip
    assert found == {
        "target_unigram": ("transformer", "../tgt/t.txt", "../tgt", 8.0, 4),
        "source_unigram": ("ctc", "../src/s.txt", "../src", 4.0, 0),
        "ctc_target_unigram": ("ctc", "../tgt/t.txt", "../tgt", 4.0, 0),
    }
    assert {task["label_smoothing"] for task in tasks.values()} == {0.1}
    assert {task["rdrop_alpha"] for task in tasks.values()} == {0.0}


def test_stereo_speech_is_the_mean_of_its_channels(tmp_path):
    soundfile.write(tmp_path / "two.wav", np.tile(np.float32([[0.2, 0.4]]), (16000, 1)), 16000, subtype="FLOAT")
    wave = read_mono(tmp_path / "two.wav")
    assert wave.shape == (16000,) and np.allclose(wave, 0.3, atol=1e-6)


def test_units_are_the_nearest_centres_and_a_run_goes_on(tmp_path):
    centres = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]], np.float32)
    np.save(tmp_path / "km.npy", centres)
    features = np.array([[0.9, 0.2], [0.1, 4.0], [0.2, 0.1]], np.float32)
    assert nearest_units(features, load_centres(tmp_path / "km.npy")) == [1, 2, 0]
    with pytest.raises(DataError, match="3 dimensions"):
        nearest_units(np.zeros((1, 3), np.float32), centres)
    assert reduce_units([5, 5, 7, 5, 5]) == [5, 7, 5] and reduce_units([]) == []
    log = UnitsLog(tmp_path / "units.txt")
    log.add("u0", [1, 1, 2])
    log.add("u1", [])
    with open(tmp_path / "units.txt.part", "a") as torn:
        torn.write("u2|1 1")
    assert not (tmp_path / "units.txt").exists()
    log = UnitsLog(tmp_path / "units.txt")
    assert list(log.done) == ["u0", "u1"]
    log.add("u2", [3])
    log.close()
    assert read_units(tmp_path / "units.txt") == {"u0": [1, 1, 2], "u1": [], "u2": [3]}
    (tmp_path / "other.txt").write_text("u0|1 one\n")
    with pytest.raises(DataError, match="other.txt:1: .*expected lines"):
        read_units(tmp_path / "other.txt")


def test_a_kmeans_file_is_read_from_joblib_and_others_are_refused(tmp_path, capsys):
    joblib, cluster = pytest.importorskip("joblib"), pytest.importorskip("sklearn.cluster")
    frames = np.random.default_rng(0).normal(size=(50, 4))
    model = cluster.KMeans(3, n_init=1, random_state=0).fit(frames)
    joblib.dump(model, tmp_path / "km.bin")
    centres = load_centres(tmp_path / "km.bin")
    assert "is a pickle" in capsys.readouterr().out
    assert nearest_units(frames.astype(np.float32), centres) == model.predict(frames).tolist()
    joblib.dump({"a": 1}, tmp_path / "other.bin")
    with pytest.raises(DataError, match="other.bin: is not a scikit-learn k-means model"):
        load_centres(tmp_path / "other.bin")
    with pytest.raises(DataError, match="none.bin: no such k-means model"):
        load_centres(tmp_path / "none.bin")
    assert keyed_lines(tmp_path / "none.txt") == {}


def test_a_table_names_files_from_its_folder_or_the_one_above(tmp_path):
    table, beside, above = (tmp_path / name for name in ("text/train.tsv", "text/a.wav", "wavs/b.wav"))
    for path in (table, beside, above):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert file_of_table(table, "a.wav") == beside
    assert file_of_table(table, "wavs/b.wav") == above
    assert file_of_table(table, str(above)) == above
    assert file_of_table(table, "missing.wav") == tmp_path / "text" / "missing.wav"
