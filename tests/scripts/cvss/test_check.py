"""The check of a prepared folder finds each damage."""

import shutil

import numpy as np
import pytest

from echostream_plugin.data.feature_zip import read_index
from tests.scripts.cvss.steps import (
    check_script,
    corpus_in,
)


def damage_units(corpus):
    path = corpus.data_folder / "dev.tsv"
    path.write_text(path.read_text().replace("\t1 ", "\t9 ").replace("\t0 ", "\t9 ").replace("\t2 ", "\t9 "))


def damage_offset(corpus):
    path = corpus.data_folder / "test.tsv"
    path.write_text(path.read_text().replace(".zip:", ".zip:1"))


def damage_zip(corpus):
    content = bytearray(corpus.feature_zip.read_bytes())
    content[-30000] ^= 64
    corpus.feature_zip.write_bytes(content)


def damage_cmvn(corpus):
    np.savez(corpus.output / "gcmvn.npz", mean=np.zeros(80), std=np.full(80, np.nan))


def damage_ids(corpus):
    path = corpus.output / "tgt_unigram45" / "dev.tsv"
    path.write_text(path.read_text().replace("fr_10", "fr_19"))


def damage_dictionary(corpus):
    path = corpus.output / "src_unigram45" / "spm_unigram_fr.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")


def damage_wav_list(corpus):
    path = corpus.output / "simuleval" / "test" / "wav_list.txt"
    path.write_text(path.read_text().replace("/clips/", "/gone/"))


def edit_row(path, line, column, change):
    """Change one cell of a table's line (the header is line 0)."""
    lines = [row.split("\t") for row in path.read_text().splitlines()]
    cell = lines[0].index(column)
    lines[line][cell] = change(lines[line][cell])
    path.write_text("".join("\t".join(row) + "\n" for row in lines))


def damage_numbers(corpus):
    """One unit more than there are clusters."""
    edit_row(corpus.data_folder / "dev.tsv", 1, "tgt_audio", lambda units: "4" + units[1:])


def damage_reduction(corpus):
    path = corpus.data_folder / "dev.tsv"
    edit_row(path, 2, "tgt_audio", lambda units: f"{units.split()[0]} {units}")
    edit_row(path, 2, "tgt_n_frames", lambda count: str(int(count) + 1))


def damage_count(corpus):
    edit_row(corpus.data_folder / "dev.tsv", 2, "tgt_n_frames", lambda count: str(int(count) - 1))


def damage_frames(corpus):
    edit_row(corpus.data_folder / "test.tsv", 3, "src_n_frames", lambda frames: str(int(frames) + 1))


def damage_rows(corpus):
    edit_row(corpus.data_folder / "train.tsv", 2, "id", lambda name: name.replace("01", "00"))


def damage_texts(corpus):
    path = corpus.data_folder / "dev.txt"
    path.write_text(path.read_text().replace("hotel", "hostel"))


def damage_moments(corpus):
    with np.load(corpus.output / "gcmvn.npz") as stored:
        mean, std = stored["mean"] + 0.1, stored["std"]
    np.savez(corpus.output / "gcmvn.npz", mean=mean, std=std)


def damage_deviation(corpus):
    with np.load(corpus.output / "gcmvn.npz") as stored:
        mean, std = stored["mean"], np.where(np.arange(80) == 7, 0, stored["std"])
    np.savez(corpus.output / "gcmvn.npz", mean=mean, std=std)


def damage_unit_list(corpus):
    path = corpus.output / "simuleval" / "test" / "unit.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1]))


def damage_subwords(corpus):
    edit_row(corpus.output / "tgt_unigram45" / "train.tsv", 1, "tgt_text", lambda text: f"@ {text}")


def damage_features(corpus):
    """A number that is none, in the first utterance that a quick check reads whole."""
    entry = next(iter(read_index(corpus.feature_zip).values()))
    with open(corpus.feature_zip, "r+b") as file:
        file.seek(entry["offset"] + entry["size"] - 4)
        file.write(np.float32(np.nan).tobytes())


@pytest.mark.parametrize(
    "damage,what",
    [
        (damage_numbers, "unit 4 of 4"),
        (damage_reduction, "units are not reduced"),
        (damage_count, "units, tgt_n_frames"),
        (damage_frames, ", src_n_frames is "),
        (damage_rows, "an id is there twice"),
        (damage_texts, "dev.txt is not that of dev.tsv"),
        (damage_moments, "gcmvn.npz is not of this training split"),
        (damage_deviation, "a standard deviation is 0"),
        (damage_unit_list, "unit.txt is not in the order of wav_list.txt"),
        (damage_subwords, "tgt_unigram45/train.tsv are not in it"),
        (damage_features, "a feature is not finite"),
        (damage_units, "unit 9 of 4"),
        (damage_offset, "common_voice_fr_20 at ../src_fbank80.zip:1"),
        (damage_zip, "is damaged (checksum)"),
        (damage_cmvn, "not finite"),
        (damage_ids, "tgt_unigram45/dev.tsv has other ids"),
        (damage_dictionary, "not the subwords of spm_unigram_fr.model"),
        (damage_wav_list, "is not there, of wav_list.txt 3 in all"),
    ],
)
def test_the_check_finds(prepared, tmp_path, capsys, damage, what):
    shutil.copytree(prepared.parent.parent, tmp_path / "data")
    damage(corpus_in(tmp_path / "data"))
    folder = tmp_path / "data" / "cvss-c" / "fr-en"
    assert check_script.main([str(folder), "--clusters", "4", "--deep"]) == 1
    assert what in capsys.readouterr().out


def test_the_check_wants_a_prepared_folder(tmp_path, capsys):
    assert check_script.main([str(tmp_path)]) == 2
    assert "no folder fbank2unit" in capsys.readouterr().err
