"""CVSS-C preparation on a miniature of it: three clips a split, in three languages; toy features instead of HuBERT."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import yaml

from echostream_plugin.data import DataError
from echostream_plugin.data.cvss import SPLITS, Corpus
from echostream_plugin.data.feature_zip import read_index, read_member
from echostream_plugin.data.parallel import Shard, Workers, begin_ray
from echostream_plugin.data.source_features import merge_features
from echostream_plugin.data.tables import read_table
from echostream_plugin.data.target_units import merge_units
from echostream_plugin.data.units import read_units
from echostream_plugin.inference.features import features_of
from tests.data_prep import miniature_cvss
from tests.data_prep.miniature_cvss import CENTRES, ENGLISH, SOURCE, ToyFeatures
from tests.scripts.conftest import ROOT, load_script

features_step, units_step = load_script("cvss/build_features"), load_script("cvss/build_units")
manifests_step, text_step = load_script("cvss/build_manifests"), load_script("cvss/build_text")
check_script, downloads_script = load_script("cvss/check"), load_script("cvss/check_downloads")


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """The miniatures as downloaded: whole ones of three languages, and `broken` French with two bad clips."""
    folder = tmp_path_factory.mktemp("cvss")
    for language in SOURCE:
        miniature_cvss.build(folder / "whole", language)
    miniature_cvss.build(folder / "broken", "fr", whole=False)
    return folder


def copy_of(originals, name, destination, language="fr"):
    shutil.copytree(originals / name, destination / "data")
    return corpus_in(destination / "data", language)


def corpus_in(root, language="fr"):
    covost, cvss = root / "covost2" / language, root / "cvss-c" / f"{language}-en"
    return Corpus(covost, cvss, cvss, language)


@pytest.fixture
def corpus(originals, tmp_path):
    """A good, a broken and a missing clip are among those of the training split."""
    return copy_of(originals, "broken", tmp_path)


def prepare(corpus, max_missing=50):
    features_step.build(corpus, max_missing=max_missing)
    units_step.build(corpus, ToyFeatures, CENTRES)
    manifests_step.build(corpus)
    text_step.build(corpus, size=45, threads=1)


def made(corpus):
    """What preparation left, by name."""
    there = {path.relative_to(corpus.output): path for path in corpus.output.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in there.items() if path.suffix != ".wav"}


def same(one, other, but=None):
    """The same files of the same bytes, but for the absolute paths of the two corpora."""
    files, others = made(one), {name: content for name, content in made(other).items() if not (but and but in name)}
    assert files.keys() == others.keys()
    here, there = str(one.covost.parents[1]).encode(), str(other.covost.parents[1]).encode()
    for name, content in files.items():
        assert content.replace(here, there) == others[name], name


def prepared_folder(originals, tmp_path):
    corpus = copy_of(originals, "whole", tmp_path)
    prepare(corpus)
    return corpus


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


def test_shards_joined_are_the_bytes_of_one_run(originals, tmp_path):
    whole = copy_of(originals, "broken", tmp_path / "one")
    prepare(whole)
    parts = copy_of(originals, "broken", tmp_path / "three")
    for shard in Shard(1, 3).of_all():
        features_step.build(parts, shard=shard, max_missing=50)
        units_step.build(parts, ToyFeatures, CENTRES, shard=shard)
        assert len(read_units(shard.place(parts.units_path("dev")))) == 1
        assert 3 <= len(read_index(shard.place(parts.feature_zip))) <= 4
    with pytest.raises(DataError, match=r"src_fbank80.4-of-4.zip|1-of-4.zip: not there; make it with .* --shard 1/4"):
        merge_features(parts, 4)
    features_step.build(parts, merge=3)
    merge_units(parts, 3)
    manifests_step.build(parts)
    text_step.build(parts, size=45, threads=1)
    same(whole, parts, but="parts/")


def test_a_damaged_part_is_found_when_the_parts_are_joined(originals, tmp_path):
    corpus = copy_of(originals, "whole", tmp_path)
    for shard in Shard(1, 2).of_all():
        features_step.build(corpus, shard=shard)
    part = Shard(2, 2).place(corpus.feature_zip)
    content = bytearray(part.read_bytes())
    content[1000] ^= 1
    part.write_bytes(content)
    with pytest.raises(DataError, match="2-of-2.zip: common_voice_fr_01.npy is damaged"):
        merge_features(corpus, 2)


def test_processes_give_the_bytes_of_one_process(originals, tmp_path):
    one, two = copy_of(originals, "whole", tmp_path / "one"), copy_of(originals, "whole", tmp_path / "two")
    for corpus, workers in ((one, Workers(1)), (two, Workers(2))):
        features_step.build(corpus, workers)
        units_step.build(corpus, ToyFeatures, CENTRES, workers)
    same(one, two)


def test_ray_gives_the_bytes_of_one_process(originals, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    one, two = copy_of(originals, "whole", tmp_path / "one"), copy_of(originals, "whole", tmp_path / "two")
    features_step.build(one)
    for name in ("RAY_ADDRESS", "RAY_worker_niceness"):
        monkeypatch.delenv(name, raising=False)
    begin_ray(num_cpus=2, include_dashboard=False)
    try:
        assert list(Workers(None, ray="").ordered(os.nice, [0] * 9, "niceness")) == [os.nice(0)] * 9
        features_step.build(two, Workers(None, ray=""))
    finally:
        ray.shutdown()
    same(one, two)


def test_a_ray_address_where_nobody_is_is_refused_at_once(originals, tmp_path, capsys):
    pytest.importorskip("ray")
    copy_of(originals, "whole", tmp_path)
    assert features_step.main(["--root", str(tmp_path / "data"), "--ray", "127.0.0.1:1"]) == 1
    assert "--ray 127.0.0.1:1: nobody answers there" in capsys.readouterr().err


def test_ray_that_is_not_there_is_asked_for(originals, tmp_path, monkeypatch, capsys):
    corpus = copy_of(originals, "whole", tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert features_step.main(["--root", str(tmp_path / "data"), "--lang", "fr", "--ray"]) == 1
    assert "pip install 'echostream[ray]'" in capsys.readouterr().err and not corpus.feature_zip.exists()


SLOW_STEP = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from echostream_plugin.data import source_features, target_units, units
from echostream_plugin.data.cvss import Corpus
from echostream_plugin.data.parallel import Shard, Workers
from tests.data_prep.miniature_cvss import CENTRES, ToyFeatures

def slowly(function):
    def slow(path):
        time.sleep(0.05)
        return function(path)
    return slow

source_features.features_or_reason = slowly(source_features.features_or_reason)
target_units.units_or_reason = slowly(target_units.units_or_reason)
corpus = Corpus(Path({covost!r}), Path({cvss!r}), Path({cvss!r}), "fr")
source_features.build_features(corpus, Workers(), Shard())
target_units.build_units(corpus, ToyFeatures, CENTRES, Workers(), Shard())
"""


def kill_when(path, lines, corpus):
    """Run both slow steps in a process of their own and kill it when `path` has so many lines."""
    code = SLOW_STEP.format(root=str(ROOT), covost=str(corpus.covost), cvss=str(corpus.cvss))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if path.is_file() and path.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(originals, tmp_path):
    whole, cut = copy_of(originals, "whole", tmp_path / "whole"), copy_of(originals, "whole", tmp_path / "cut")
    prepare(whole)
    kill_when(cut.output / "src_fbank80.zip.part.jsonl", 3, cut)
    assert not cut.feature_zip.exists()
    kill_when(cut.output / "units" / "dev.txt.part", 1, cut)
    assert cut.feature_zip.exists() and not cut.units_path("dev").exists()
    prepare(cut)
    same(whole, cut)


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


def damage_pieces(corpus):
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
        (damage_pieces, "tgt_unigram45/train.tsv are not in it"),
        (damage_features, "a feature is not finite"),
        (damage_units, "unit 9 of 4"),
        (damage_offset, "common_voice_fr_20 at ../src_fbank80.zip:1"),
        (damage_zip, "is damaged (checksum)"),
        (damage_cmvn, "not finite"),
        (damage_ids, "tgt_unigram45/dev.tsv has other ids"),
        (damage_dictionary, "not the pieces of spm_unigram_fr.model"),
        (damage_wav_list, "is not there, of wav_list.txt 3 in all"),
    ],
)
def test_the_check_finds(prepared, tmp_path, capsys, damage, what):
    shutil.copytree(prepared.parent.parent, tmp_path / "data")
    damage(corpus_in(tmp_path / "data"))
    folder = tmp_path / "data" / "cvss-c" / "fr-en"
    assert check_script.main([str(folder), "--clusters", "4", "--deep"]) == 1
    assert what in capsys.readouterr().out


@pytest.fixture(scope="session")
def prepared(originals, tmp_path_factory):
    return prepared_folder(originals, tmp_path_factory.mktemp("prepared")).output


def test_the_check_wants_a_prepared_folder(tmp_path, capsys):
    assert check_script.main([str(tmp_path)]) == 2
    assert "no folder fbank2unit" in capsys.readouterr().err


TOY_PYTHON = """#!{python}
import runpy, sys
sys.path.insert(0, {root!r})
sys.argv = sys.argv[1:]
step = runpy.run_path(sys.argv[0])
if sys.argv[0].endswith("build_units.py"):
    from tests.data_prep.miniature_cvss import ToyFeatures
    step["step"].__globals__["hubert_maker"] = lambda path, layer, device: ToyFeatures
sys.exit(step["main"]())
"""


@pytest.mark.parametrize("parts", [1, 2])
def test_one_command_prepares_a_language(originals, tmp_path, parts):
    """prepare.sh on the miniature: at once, and in two parts that are joined. Toy features stand for HuBERT's."""
    root = tmp_path / "data"
    corpus = copy_of(originals, "whole", tmp_path, "es")
    (root / "models").mkdir()
    np.save(root / "models" / "km.npy", CENTRES)
    python = tmp_path / "python"
    python.write_text(TOY_PYTHON.format(python=sys.executable, root=str(ROOT)))
    python.chmod(0o755)
    settings = {"KMEANS": root / "models" / "km.npy", "CLUSTERS": 4, "PIECES": 45, "JOBS": 1, "PYTHON": python}
    command = ["bash", str(ROOT / "examples" / "cvss_c" / "prepare.sh"), "es", str(root)]
    turns = [{}] if parts == 1 else [{"SHARD": "1/2"}, {"SHARD": "2/2"}, {"MERGE": "2"}]
    for turn in turns:
        environment = os.environ | {name: str(value) for name, value in (settings | turn).items()}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    assert "all is well" in result.stdout and f"ready: examples/cvss_c/train.sh {corpus.data_folder}" in result.stdout
    assert len(read_table(corpus.data_folder / "train.tsv")) == 3


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
