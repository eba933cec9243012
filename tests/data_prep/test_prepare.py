"""`echostream prepare`: a user's table becomes a folder that trains, or an error that names the row and the fix."""

import csv
import shutil

import numpy as np
import pytest
import soundfile
import yaml

from echostream_plugin.cli import main
from echostream_plugin.constants import UNIT_SAMPLES
from echostream_plugin.data import DataError
from echostream_plugin.data.check import Prepared
from echostream_plugin.data.feature_zip import read_stored
from echostream_plugin.data.own_table import OwnCorpus, check_table, problem_of, read_rows, split_rows
from echostream_plugin.data.parallel import Workers
from echostream_plugin.data.prepare import Settings, prepare, subwords, unit_model
from echostream_plugin.data.tables import read_table
from echostream_plugin.data.unit_models import LogMelFeatures, UnitModel
from echostream_plugin.data.units import read_units, units_digest
from echostream_plugin.data.waveforms import features_of
from echostream_plugin.units import reduce_units
from tests.tiny_bundle import speechlike

WORDS = "the train is late where hotel two coffees please good morning".split()
SETTINGS = Settings(unit_features="logmel", clusters=8, fit_utterances=4, decoder="small", dev_percent=20)


def own_table(folder, rows=12, name="table.tsv", **changes):
    """A table of generated recordings in several formats; changes: column -> value of the first row."""
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    for number in range(rows):
        text = " ".join(WORDS[(number + k * (number + 1)) % len(WORDS)] for k in range(4))
        source, target = f"audio/s{number}.{('wav', 'flac', 'ogg')[number % 3]}", f"audio/t{number}.wav"
        (folder / "audio").mkdir(exist_ok=True)
        soundfile.write(folder / source, speechlike(1.3, 22050, seed=number), 22050)
        soundfile.write(folder / target, speechlike(1.1, 24000, seed=90 + number), 24000)
        texts = {"src_text": f"{text} {number}?", "tgt_text": text.capitalize()}
        table.append({"src_audio": source, **texts, "tgt_audio": target})
    for column, value in changes.items():
        for row in table:
            row.setdefault(column, "")
        table[0][column] = value
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), delimiter="," if name.endswith("csv") else "\t")
        writer.writeheader()
        writer.writerows(table)
    return folder / name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    table = own_table(folder / "mine")
    bad, units = prepare(table, folder / "out", SETTINGS, Workers(1))
    return table, folder / "out", bad, units


def test_a_table_becomes_a_folder_that_holds_together(made):
    _, out, bad, units = made
    assert (bad, units) == (0, 8)
    checks = list(Prepared(out, clusters=8, deep=True).checks())
    assert len(checks) > 10 and not [check for check in checks if check.problem]
    assert sum(len(read_table(out / "fbank2unit" / f"{s}.tsv")) for s in ("train", "dev", "test")) == 12
    assert "12" not in (out / "dropped.tsv").read_text()
    sizes = {split: len(read_table(out / "fbank2unit" / f"{split}.tsv")) for split in ("train", "dev", "test")}
    assert sizes == {"train": 9, "dev": 2, "test": 1}  # 20 and 5 percent of 12 texts
    assert read_table(out / "fbank2unit" / "train.tsv")[0]["tgt_text"][0].isupper()
    tasks = yaml.safe_load((out / "fbank2unit" / "config_mtl_asr_st_ctcst.yaml").read_text())
    assert tasks["target_unigram"]["decoder_args"]["decoder_embed_dim"] == 256  # --decoder small


def test_ids_need_not_be_the_names_of_the_recordings(tmp_path):
    table = own_table(tmp_path / "mine", rows=4)
    head, *rows = table.read_text(encoding="utf-8").splitlines()
    named = [f"id\t{head}", *(f"sentence_{number}\t{row}" for number, row in enumerate(rows))]
    table.write_text("\n".join(named) + "\n", encoding="utf-8")
    assert prepare(table, tmp_path / "out", SETTINGS, Workers(1))[0] == 0
    assert (tmp_path / "out" / "tgt_wav" / "sentence_3.wav").is_file()
    lists = tmp_path / "out" / "simuleval" / "train" / "wav_list.txt"
    lists.write_text("\n".join(reversed(lists.read_text().splitlines())) + "\n")
    (bad,) = (check for check in Prepared(tmp_path / "out").checks() if check.problem)
    assert bad.problem == "unit.txt is not in the order of wav_list.txt"


def test_units_are_those_of_the_16_khz_copies(made):
    _, out, _, _ = made
    model, units = UnitModel.load(out / "units" / "kmeans.npz"), read_units(out / "units" / "train.txt")
    manifest = {row["id"]: row for row in read_table(out / "fbank2unit" / "train.tsv")}
    for name, found in units.items():
        wave, rate = soundfile.read(out / "tgt_wav" / f"{name}.wav", dtype="float32")
        assert rate == 16000 and len(wave) % UNIT_SAMPLES == 0 and abs(len(wave) - 1.1 * 16000) < UNIT_SAMPLES
        assert found == model(LogMelFeatures()(wave)).tolist() and len(found) == len(wave) // UNIT_SAMPLES
        assert manifest[name]["tgt_audio"] == " ".join(map(str, reduce_units(found)))


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(made, tmp_path):
    table, out, _, _ = made
    again = tmp_path / "out"
    shutil.copytree(out, again)
    for name in ("src_fbank80.zip", "units/dev.txt", "units/test.txt", "fbank2unit/train.tsv", "tgt_wav/s3.wav"):
        (again / name).unlink()
    shutil.rmtree(next(again.glob("tgt_unigram*")))
    assert prepare(table, again, SETTINGS, Workers(1)) == (0, 8)
    for path in out.rglob("*"):
        if path.is_file() and path.name not in ("train.tsv", "table.tsv", "dev.tsv", "test.tsv"):
            assert (again / path.relative_to(out)).read_bytes() == path.read_bytes(), path
    assert (again / "fbank2unit/train.tsv").read_bytes() == (out / "fbank2unit/train.tsv").read_bytes()


def test_another_table_or_setting_needs_another_folder(made, tmp_path):
    table, out, _, _ = made
    with pytest.raises(DataError, match="settings.json: .* begun with another clusters; use another --out"):
        prepare(table, out, Settings(**{**SETTINGS.__dict__, "clusters": 9}), Workers(1))
    with pytest.raises(DataError, match="begun with another table"):
        prepare(own_table(tmp_path, rows=5), out, SETTINGS, Workers(1))


def test_the_command_says_what_to_do_next_and_errors_are_one_line(tmp_path, capsys):
    table = own_table(tmp_path / "mine", name="table.csv")
    flags = ["--unit-features", "logmel", "--clusters", "6", "--fit-utterances", "4", "--jobs", "1"]
    assert main(["prepare", str(table), "-o", str(tmp_path / "out"), *flags]) == 0
    assert "--target-code-size 6" in capsys.readouterr().out
    assert main(["prepare", str(tmp_path / "none.tsv"), "-o", str(tmp_path / "o"), *flags]) != 0
    error = capsys.readouterr().err
    assert "none.tsv: no such table" in error and "Traceback" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"src_audio": "audio/none.wav"}, "audio/none.wav: no such recording"),
        ({"src_text": " ?! "}, "src_text is empty"),
        ({"tgt_text": ""}, "tgt_text is empty"),
        ({"tgt_text": "far too many words " * 9}, "is this the text of this recording"),
        ({"src_n_frames": "28665"}, "src_n_frames is 28665 (that is its number of samples), but the recording has 130"),
        ({"src_n_frames": "20800"}, "that is its number of samples"),  # at 16 kHz
        ({"src_n_frames": "190"}, "but the recording has 130 frames of 10 ms"),
        ({"src_n_frames": "1.3"}, "src_n_frames '1.3' is no number"),
    ],
)
def test_rows_that_cannot_be_used_are_named_with_their_reason(tmp_path, changes, why):
    table = own_table(tmp_path / "mine", rows=4, **changes)
    with pytest.raises(DataError, match="1 of 4 rows cannot be used, all in .*dropped.tsv.*--max-missing 26") as error:
        prepare(table, tmp_path / "out", SETTINGS, Workers(1))
    assert why in str(error.value) and why in (tmp_path / "out" / "dropped.tsv").read_text()
    assert not (tmp_path / "out" / "table.tsv").exists()


def test_the_right_number_of_frames_is_no_problem(tmp_path):
    row = read_rows(own_table(tmp_path, rows=3, src_n_frames="128"))[0]
    row |= {side: str(tmp_path / row[side]) for side in ("src_audio", "tgt_audio")}
    assert problem_of((row, 60.0)) == ""
    (tmp_path / "cut.wav").write_bytes(b"RIFF....WAVEfmt ")
    assert "not a readable recording" in problem_of((row | {"src_audio": str(tmp_path / "cut.wav")}, 60.0))
    assert "1.30 s long; usable are 0.1 to 1 s" in problem_of((row, 1.0))


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "no column 'src_audio'; it has no header"),
        ("src_audio\tsrc_text\ttgt_text\n", "no column 'tgt_audio'"),
        ("src_audio\tsrc_text\ttgt_text\ttgt_audio\n", "has a header but no rows"),
        (
            "id\tsrc_audio\tsrc_text\ttgt_text\ttgt_audio\na\tx\tx\tx\tx\na\ty\ty\ty\ty\n",
            ":3: id 'a' is that of line 2",
        ),
        ("id\tsrc_audio\tsrc_text\ttgt_text\ttgt_audio\n../a\tx\tx\tx\tx\n", "cannot name a file"),
        ("id\tsrc_audio\tsrc_text\ttgt_text\ttgt_audio\na|b\tx\tx\tx\tx\n", "cannot name a file"),
        ("src_audio\tsrc_text\ttgt_text\ttgt_audio\tsplit\nx\tx\tx\tx\tvalid\n", "split 'valid'; use train, dev, test"),
        ("src_audio\tsrc_text\ttgt_text\ttgt_audio\nx\tx\tx\tx\tx\n", ":2: more cells than the header"),
    ],
)
def test_tables_that_cannot_be_read_name_line_and_column(tmp_path, text, why):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(DataError) as error:
        read_rows(tmp_path / "t.tsv")
    assert why in str(error.value)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "t.tsv").write_bytes("src_audio\tniño".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_rows(tmp_path / "t.tsv")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    text = own_table(tmp_path, rows=3).read_text(encoding="utf-8")
    (tmp_path / "excel.tsv").write_text(text, encoding="utf-8-sig")
    assert [row["id"] for row in read_rows(tmp_path / "excel.tsv")] == ["s0", "s1", "s2"]


def test_recordings_of_one_name_in_two_folders_get_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("src_audio,src_text,tgt_text,tgt_audio\na/1.wav,x,x,t1.wav\nb/1.wav,y,y,t2.wav\n")
    assert [row["id"] for row in read_rows(tmp_path / "t.csv")] == ["utt000000", "utt000001"]


def test_rows_without_use_are_left_out_where_that_is_allowed(tmp_path):
    table, corpus = own_table(tmp_path / "mine", rows=5), OwnCorpus(tmp_path / "out", "src")
    soundfile.write(tmp_path / "mine/audio/t1.wav", speechlike(0.05, 24000), 24000)
    check_table(table, corpus, Workers(1), 5, 5, 60.0, 20)
    assert sorted(row["id"] for row in corpus.all_utterances()) == ["s0", "s2", "s3", "s4"]
    (dropped,) = read_table(tmp_path / "out" / "dropped.tsv")
    assert dropped["id"] == "s1" and "0.05 s long; usable are 0.1 to 60" in dropped["why"]


def test_units_are_fitted_on_training_speech_spread_over_the_split(made, tmp_path, monkeypatch):
    _, out, _, _ = made
    seen = []

    def fit(features, *given, **rest):
        seen.extend(given)
        return UnitModel.load(out / "units" / "kmeans.npz")

    monkeypatch.setattr("echostream_plugin.data.prepare.fit_units", fit)
    shutil.copy(out / "table.tsv", tmp_path)
    shutil.copytree(out / "tgt_wav", tmp_path / "tgt_wav")
    settings = Settings(unit_features="logmel", clusters=7, fit_utterances=4, seed=3)
    assert unit_model(OwnCorpus(tmp_path, "src"), settings)[1].shape[0] == 8
    names = [row["id"] for row in read_table(out / "fbank2unit" / "train.tsv")][::2][:4]
    waves, *rest = seen
    assert rest == [7, 3] and len(waves) == len(names) == 4
    for wave, name in zip(waves, names, strict=True):
        np.testing.assert_array_equal(wave, soundfile.read(out / "tgt_wav" / f"{name}.wav", dtype="float32")[0])


def test_there_are_as_many_subwords_as_words_of_the_poorer_side(monkeypatch):
    rows = [{"src_text": f"a{n} b{n}", "tgt_text": f"C{n}."} for n in range(150)]
    monkeypatch.setattr(OwnCorpus, "utterances", lambda corpus, split: rows if split == "train" else rows * 9)
    corpus = OwnCorpus("nowhere", "src")
    assert subwords(corpus, 0) == 150 and subwords(corpus, 45) == 45
    del rows[50:]
    assert subwords(corpus, 0) == 100
    rows *= 2
    rows += [{"src_text": f"a{n}", "tgt_text": f"b{n}"} for n in range(9000)]
    assert subwords(corpus, 0) == 6000


def rows_of(texts):
    return [{"src_text": text} for text in texts]


def test_one_sentence_is_in_one_split_and_stays_there_when_the_table_grows():
    few, many = rows_of([f"Text {n}." for n in range(60)] * 2), rows_of(f"text {n}" for n in range(61))
    for rows in (few, many):
        split_rows(rows, 10, 10)
    where = {}
    for row in few:
        where.setdefault(row["src_text"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in where.values())
    assert {s: sum(r["split"] == s for r in few) for s in ("dev", "test")} == {"dev": 12, "test": 12}
    held_out = {text for text, splits in where.items() if splits != {"train"}}
    assert held_out.isdisjoint(["Text 0.", "Text 1.", "Text 10."]), "chosen by their hashes, not the first by name"
    before = {row["src_text"].lower().rstrip("."): row["split"] for row in few}
    assert sum(before[row["src_text"]] != row["split"] for row in many[:-1]) <= 2


def test_given_splits_stay_and_too_few_sentences_are_refused():
    rows = [{"src_text": f"t{n}", "split": split} for n, split in enumerate(("dev", "test", "", ""))]
    split_rows(rows, 5, 5)
    assert [row["split"] for row in rows] == ["dev", "test", "train", "train"]
    with pytest.raises(DataError, match="2 different sentences are too few"):
        split_rows(rows_of(["a", "b", "a"]), 5, 5)
    with pytest.raises(DataError, match="no row of 'train'"):
        split_rows([{"src_text": "a", "split": "dev"}, {"src_text": "b", "split": "test"}], 5, 5)


def test_settings_that_make_no_sense_are_refused():
    for changes, why in (
        ({"unit_features": "mfcc"}, "use one of whisper, logmel, hubert"),
        ({"unit_features": "hubert"}, "--hubert FOLDER"),
        ({"clusters": 1}, "--clusters 1"),
        ({"dev_percent": 0.0}, "--dev-percent 0"),
        ({"decoder": "huge"}, "--decoder huge"),
    ):
        with pytest.raises(DataError, match=why):
            Settings(**changes)


def test_waveforms_are_named_instead_of_features(made, tmp_path):
    """The same texts, units and frames; the sources are the recordings, whose features are those that were stored."""
    table, out, _, _ = made
    again = tmp_path / "out"
    assert prepare(table, again, Settings(**{**SETTINGS.__dict__, "source": "waveforms"}), Workers(1)) == (0, 8)
    assert not (again / "src_fbank80.zip").exists()
    with np.load(out / "gcmvn.npz") as stored, np.load(again / "gcmvn.npz") as computed:
        np.testing.assert_allclose(stored["mean"], computed["mean"], atol=1e-3)
    rows = zip(read_table(out / "fbank2unit/train.tsv"), read_table(again / "fbank2unit/train.tsv"), strict=True)
    for stored, named in rows:
        features = features_of(named["src_audio"])
        assert len(features) == int(named["src_n_frames"]) == int(stored["src_n_frames"])
        name, offset, size = stored["src_audio"].rsplit(":", 2)
        np.testing.assert_array_equal(features, read_stored(out / "fbank2unit" / name, int(offset), int(size)))
        assert named | {"src_audio": ""} == stored | {"src_audio": ""}
    manifest = again / "fbank2unit/dev.tsv"
    row = read_table(manifest)[0]
    for wrong, why in ((row["src_audio"] + "x", "is not there"), (str(table), "is not a readable recording")):
        manifest.write_text(manifest.read_text().replace(row["src_audio"], wrong))
        assert why in " ".join(check.problem for check in Prepared(again, clusters=8).tables())
        manifest.write_text(manifest.read_text().replace(wrong, row["src_audio"]))


def test_units_say_which_k_means_made_them(made, tmp_path):
    _, out, _, _ = made
    assert units_digest(out / "units") and units_digest(out / "units") == units_digest(out / "fbank2unit")


def test_a_given_kmeans_model_is_used(made, tmp_path):
    table, out, _, _ = made
    changed = {**SETTINGS.__dict__, "kmeans": str(out / "units" / "kmeans.npz")}
    prepare(table, tmp_path / "out", Settings(**changed), Workers(1))
    assert (tmp_path / "out/units/train.txt").read_bytes() == (out / "units/train.txt").read_bytes()
    assert not (tmp_path / "out/units/kmeans.npz").exists()
    centres = tmp_path / "c.npy"
    np.save(centres, np.zeros((4, 3), np.float32))
    with pytest.raises(DataError, match="features of 240 dimensions, but k-means centres of 3"):
        prepare(table, tmp_path / "other", Settings(**{**changed, "kmeans": str(centres)}), Workers(1))
