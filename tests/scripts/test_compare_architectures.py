"""Architectures trained and evaluated side by side on a miniature corpus; learning curves from fairseq's logs."""

import json
import shutil

import pytest
import soundfile

from echostream_plugin.evaluation import architectures
from echostream_plugin.vocoder import save_vocoder
from tests.fairseq_ext.miniature import UNITS, write_corpus
from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike, tiny_vocoder

compare = load_script("compare_architectures")
DECODERS = (
    "--decoder-embed-dim 32 --decoder-attention-heads 2 --decoder-ffn-embed-dim 64 --decoder-layers 1 "
    "--translation-decoder-layers 1 --synthesizer-encoder-layers 1 --ctc-upsample-rate 6"
)
ENCODER = "--encoder-layers 1 --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --encoder-attention-heads 2"
OWN = {"streamspeech": "--conv-channels 8 --max-source-positions 6000", "echostream_tiny": "--subsampling-channels 4"}
SIZES = {arch: f"{ENCODER} {DECODERS} {own}".split() for arch, own in OWN.items()}
RECIPE = (
    "--lr 0.001 --max-tokens 4000 --log-interval 1 --validate-interval-updates 2 --save-interval-updates 2 --multichunk"
).split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("architectures")
    data = write_corpus(root)
    shutil.copy(data / "config_mtl.yaml", data / "config_mtl_asr_st_ctcst.yaml")
    (root / "settings.json").write_text(json.dumps({"clusters": UNITS}))
    folder = root / "simuleval" / "dev"
    folder.mkdir(parents=True)
    wavs = [folder / f"{number}.wav" for number in range(3)]
    for number, wav in enumerate(wavs):
        soundfile.write(wav, speechlike(0.8 + 0.3 * number, seed=number), 16000)
    (folder / "wav_list.txt").write_text("".join(f"{wav}\n" for wav in wavs))
    (folder / "target.txt").write_text("one two\nthree\nfour one\n")
    (folder / "src.txt").write_text("uno dos\ntres\ncuatro uno\n")
    (data / "dev.unit").write_text("0 1 2 3\n4 5\n6 7 0 1\n")
    save_vocoder(tiny_vocoder(UNITS), root / "vocoder")
    return root


def test_two_encoders_are_trained_and_evaluated_and_the_command_goes_on(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "SIZES", SIZES)
    monkeypatch.setattr(compare, "RECIPE", RECIPE)
    command = ["--corpus", str(corpus), "--output", str(tmp_path), "--vocoder", str(corpus / "vocoder"), "--set", "dev"]
    command += ["--archs", *SIZES, "--updates", "3", "--minutes", "0", "--segments-ms", "0", "320", "--threads", "1"]
    command += ["--jobs", "1"]
    assert compare.main(command) == 0
    found = json.loads((tmp_path / "architectures.json").read_text())
    assert [(row["arch"], row["mode"]) for row in found["rows"]] == [
        (arch, mode) for arch in SIZES for mode in ("offline", "320 ms")
    ]
    for row in found["rows"]:
        assert row["updates"] == 3 and {"wer", "text_bleu", "uer"} <= row.keys() and row["parameters"] > 0.01
    assert all(point["minutes"] >= 0 and "asr_wer" in point for curve in found["curves"].values() for point in curve)
    assert (tmp_path / "architectures.png").stat().st_size > 5000
    logs = {arch: (tmp_path / arch / "train.log").read_bytes() for arch in SIZES}
    assert all(b"training on 2 devices" in log for log in logs.values())  # --procs, by default
    assert compare.main(command) == 0
    assert logs == {arch: (tmp_path / arch / "train.log").read_bytes() for arch in SIZES}  # not trained again
    assert json.loads((tmp_path / "architectures.json").read_text())["rows"] == found["rows"]
    assert "| streamspeech |" in capsys.readouterr().out
    only = command[: command.index("--archs")] + ["--archs", "echostream_tiny", *command[command.index("--updates") :]]
    only[only.index("--updates") + 1] = "5"  # a longer training goes on, and its model is evaluated anew
    assert compare.main(only) == 0
    longer = json.loads((tmp_path / "architectures.json").read_text())["rows"]
    assert [row["updates"] for row in longer] == [5, 5] and longer[0]["uer"] != found["rows"][2]["uer"]


def test_a_training_that_fails_names_its_log(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "RECIPE", ["--no-such-flag"])
    command = ["--corpus", str(corpus), "--output", str(tmp_path), "--set", "dev", "--archs", "echostream_tiny"]
    with pytest.raises(SystemExit, match="error: echostream_tiny: fairseq-train ended with 2; .*train.log says why"):
        compare.main([*command, "--procs", "1"])
    assert "no-such-flag" in (tmp_path / "echostream_tiny" / "train.log").read_text()


def test_units_that_do_not_fit_and_trainings_without_a_limit_are_named(corpus, tmp_path):
    command = ["--corpus", str(tmp_path), "--output", str(tmp_path / "out"), "--set", "dev"]
    (tmp_path / "simuleval").symlink_to(corpus / "simuleval")
    (tmp_path / "settings.json").write_text('{"clusters": 10}')
    (tmp_path / "fbank2unit").mkdir()
    (tmp_path / "fbank2unit" / "dev.unit").write_text("1 2\n")
    with pytest.raises(SystemExit, match="error: .*dev.unit: 1 lines for 3 recordings"):
        compare.main([*command, "--vocoder", str(corpus / "vocoder")])
    with pytest.raises(SystemExit, match="error: a training without a limit never ends"):
        compare.main([*command, "--minutes", "0"])


def test_a_folder_that_is_no_corpus_is_named(corpus, tmp_path):
    with pytest.raises(SystemExit, match="error: .*wav_list.txt"):
        compare.main(["--corpus", str(tmp_path), "--output", str(tmp_path / "out")])
    (tmp_path / "simuleval").symlink_to(corpus / "simuleval")
    with pytest.raises(SystemExit, match="error: .*settings.json: no number of clusters"):
        compare.main(["--corpus", str(tmp_path), "--output", str(tmp_path / "out"), "--set", "dev"])


def test_the_curve_of_a_training_that_was_stopped_and_torn(tmp_path):
    lines = [
        '{"epoch": 1, "loss": "9", "num_updates": "50", "train_wall": "60", "wall": "90"}',
        '{"epoch": 1, "dev_loss": "8", "dev_asr_wer": "80.5", "dev_num_updates": "60", "dev_best_loss": "8"}',
        '{"epoch": 1, "loss": "7", "num_upd',
        "",
        '{"epoch": 1, "loss": "7", "num_updates": "100", "train_wall": "60", "wall": "180"}',
        '2026-01-01 | INFO | {"epoch": 1, "dev_loss": "6", "dev_uer": "70", "dev_num_updates": "100"}',
        "[1, 2]",
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    assert architectures.learning_curve(tmp_path) == [
        {"minutes": 1.5, "updates": 60, "loss": 8.0, "asr_wer": 80.5},
        {"minutes": 3.0, "updates": 100, "loss": 6.0, "uer": 70.0},
    ]
    assert architectures.learning_curve(tmp_path / "nothing") == []
