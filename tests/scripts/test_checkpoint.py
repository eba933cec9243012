"""Bundles become checkpoints and checkpoints bundles; checkpoints are averaged; cards tell what is in them."""

import json
import shutil
from argparse import Namespace

import pytest
import torch
from fairseq import checkpoint_utils, options  # noqa: E402

from echostream_plugin.cli import main  # noqa: E402
from echostream_plugin.fairseq_ext.loading import export_bundle  # noqa: E402
from echostream_plugin.inference.bundle import load_bundle  # noqa: E402
from tests.fairseq_ext.miniature import UNITS, run_cli, task_arguments, train, write_corpus  # noqa: E402
from tests.scripts.conftest import ROOT

PARITY = ROOT / "tests" / "data" / "streamspeech_parity"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def echostream(corpus, tmp_path_factory):
    """A checkpoint of a short training."""
    folder = tmp_path_factory.mktemp("echostream")
    train(corpus, folder, "--disable-validation", "--st-ctc-layers", "1", "--multichunk", updates=3)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def streamspeech(tmp_path_factory):
    """The small StreamSpeech of the parity data as its fairseq-train saves it."""
    flags = json.loads((PARITY / "expected.json").read_text(encoding="utf-8"))["flags"]
    flags = [str(PARITY / "data"), *(flag for flag in flags if flag not in ("DATA", "--user-dir", "USER_DIR"))]
    args = options.parse_args_and_arch(options.get_training_parser("speech_to_speech_ctc"), flags)
    path = tmp_path_factory.mktemp("streamspeech") / "streamspeech.pt"
    state = torch.load(PARITY / "state_dict.pt", weights_only=True)
    torch.save({"args": None, "cfg": {"model": args}, "model": state}, path)
    return path


@pytest.fixture(scope="module", params=["echostream", "streamspeech"])
def checkpoint(request):
    return request.getfixturevalue(request.param)


def saved(path) -> dict:
    """The content of a checkpoint, of tensors and plain values alone."""
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, weights_only=True)


def call(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def generate(corpus, path, tmp_path) -> dict[str, str]:
    """The units of each utterance of dev, as fairseq-generate finds them."""
    run_cli(
        "fairseq_cli.generate",
        [*task_arguments(corpus), "--path", str(path), "--gen-subset", "dev", "--max-tokens", "2000", "--cpu",
         "--max-len-b-mt", "5", "--results-path", str(tmp_path)],
    )  # fmt: skip
    lines = (line.split("\t") for line in (tmp_path / "generate-dev.txt").read_text().splitlines())
    return {line[0]: line[2] for line in lines if line[0].startswith("D-")}


@pytest.mark.parametrize("given", [True, False])
def test_to_a_bundle_and_back(checkpoint, tmp_path, given):
    """The same parameters in half precision, the same options, a file that fairseq reads."""
    bundle, out = export_bundle(tmp_path / "bundle", checkpoint), tmp_path / "again" / "model.pt"
    before = saved(checkpoint)
    args = before["cfg"]["model"]
    names = ["--config-yaml", args.config_yaml, "--multitask-config-yaml", args.multitask_config_yaml]
    call("from-bundle", bundle, "--out", out, *(["--data", args.data, *names] if given else []))
    after = saved(out)
    assert after["model"].keys() == before["model"].keys()
    for name, tensor in before["model"].items():
        assert torch.equal(after["model"][name], tensor.half().float()), name
    assert given == (not (tmp_path / "again" / "model_data").exists())

    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([str(out)])
    original = load_bundle(bundle)
    assert model.config == original.config
    assert tuple(task.multitask_tasks["source_unigram"].target_dictionary.symbols) == original.source_dictionary.symbols
    again = load_bundle(export_bundle(tmp_path / "bundle2", out))
    assert again.config == original.config
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), original.model.parameters(), strict=True))
    assert (again.cmvn_mean == original.cmvn_mean).all() and (again.cmvn_std == original.cmvn_std).all()


def test_generate_and_train_go_on_from_a_bundle(corpus, echostream, tmp_path):
    bundle, out = export_bundle(tmp_path / "bundle", echostream), tmp_path / "model.pt"
    call("from-bundle", bundle, "--out", out)
    assert generate(corpus, out, tmp_path / "a") == generate(corpus, echostream, tmp_path / "b")
    more = ("--st-ctc-layers", "1", "--disable-validation")
    for flag in ("--restore-file", "--finetune-from-model"):
        result = train(corpus, tmp_path / flag, *more, flag, str(out), "--lr", "1e-9", updates=1)
        assert result["optimizer_history"][-1]["num_updates"] == 1
        start = saved(out)["model"]
        assert all(torch.allclose(tensor, start[name], atol=1e-6) for name, tensor in result["model"].items())


def test_average(echostream, tmp_path, corpus):
    content = saved(echostream)
    for number, factor in ((1, 5.0), (2, 1.0), (10, 3.0)):
        state = {name: factor * tensor for name, tensor in content["model"].items()}
        torch.save({**content, "model": state}, tmp_path / f"checkpoint{number}.pt")
    out = tmp_path / "average.pt"
    call("average", "--dir", tmp_path, "--last", 2, "--out", out)  # 2 and 10, by number and not by name
    mean = saved(out)
    for name, tensor in content["model"].items():
        assert torch.allclose(mean["model"][name], 2 * tensor, atol=1e-6), name
    assert mean["args"].encoder_layers == 2 and mean["optimizer_history"][-1]["num_updates"] == 3
    call("average", echostream, echostream, echostream, "--out", out, "--overwrite")
    assert generate(corpus, out, tmp_path / "a") == generate(corpus, echostream, tmp_path / "b")


def test_card_of_a_checkpoint(echostream, capsys):
    call("card", echostream, "--json")
    card = json.loads(capsys.readouterr().out)
    state = saved(echostream)["model"]
    tied = sum(tensor.numel() for name, tensor in state.items() if name.endswith("output_projection.weight"))
    assert sum(card["parameters"].values()) == sum(tensor.numel() for tensor in state.values()) - tied
    assert card["architecture"] == "echostream_tiny" and card["updates"] == 3
    assert card["dictionaries"] == {"source": 9, "target": 8, "units": UNITS}
    assert card["encoder_ms"] == {"segment": 320, "left_context": 320, "right_context": 0, "memory": 640}
    assert card["flags"]["st_ctc_layers"] == 1 and card["training"]["multichunk"] is True
    call("card", echostream)
    page = capsys.readouterr().out
    assert "--st-ctc-layers 1" in page and "| memory | 640 |" in page and "3 updates" in page


def test_card_of_streamspeech(streamspeech, capsys):
    call("card", streamspeech, "--json")
    card = json.loads(capsys.readouterr().out)
    assert card["architecture"] == "streamspeech" and card["updates"] is None
    assert card["encoder_ms"] == {"segment": 320, "left_context": None, "right_context": 0, "memory": 0}


def test_card_of_a_bundle(bundle_folder, capsys):
    call("card", bundle_folder)
    page = capsys.readouterr().out
    assert "# bundle" in page and "| vocoder |" in page and "| units | 20 |" in page


def test_card_of_what_a_bundle_became_does_not_invent_a_training(echostream, tmp_path, capsys):
    call("from-bundle", export_bundle(tmp_path / "bundle", echostream), "--out", tmp_path / "model.pt")
    capsys.readouterr()
    call("card", tmp_path / "model.pt", "--json")
    card = json.loads(capsys.readouterr().out)
    assert card["training"].keys() == {"made_from_bundle", "data"} and card["updates"] is None


def test_wrong_files_are_named(tmp_path, capsys):
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    torch.save({"args": Namespace(), "model": {"a.weight": torch.zeros(2)}}, tmp_path / "model.pt")
    for name in ("none.pt", "text.pt", "other.pt", "model.pt"):
        assert name in refused(capsys, "card", tmp_path / name)
    for name in ("none.pt", "text.pt", "other.pt"):
        assert name in refused(capsys, "average", tmp_path / name, "--out", tmp_path / "out.pt")
    (tmp_path / "empty").mkdir()
    for command in (["card"], ["from-bundle", "--out", tmp_path / "out.pt"]):
        assert "empty" in refused(capsys, *command, tmp_path / "empty")
    assert not (tmp_path / "out.pt").exists()


def test_checkpoints_of_different_models_are_not_averaged(echostream, streamspeech, tmp_path, capsys):
    message = refused(capsys, "average", echostream, streamspeech, "--out", tmp_path / "out.pt")
    assert "streamspeech.pt: not the model of" in message and "one training" in message


def test_too_few_checkpoints_are_counted(echostream, tmp_path, capsys):
    shutil.copy(echostream, tmp_path / "checkpoint_1_500.pt")
    message = refused(capsys, "average", "--dir", tmp_path, "--last", 3, "--out", tmp_path / "out.pt")
    assert "0 checkpoints saved by epoch, 3 wanted" in message and "--by update" in message
    assert "no such folder" in refused(capsys, "average", "--dir", tmp_path / "x", "--last", 1, "--out", "y.pt")


def test_average_asks_for_checkpoints(capsys):
    for arguments in ([], ["--last", "3"], ["one.pt", "--dir", "x", "--last", "2"]):
        assert "average: " in refused(capsys, "average", "--out", "out.pt", *arguments)


def test_no_checkpoint_is_overwritten_unasked(echostream, bundle_folder, tmp_path, capsys):
    out = tmp_path / "mine.pt"
    out.write_text("mine")
    assert "is there already" in refused(capsys, "average", echostream, "--out", out)
    assert "is there already" in refused(capsys, "from-bundle", bundle_folder, "--out", out)
    shutil.copy(echostream, out)
    assert "are averaged" in refused(capsys, "average", echostream, out, "--out", out, "--overwrite")
    assert out.read_bytes() == echostream.read_bytes()


def test_a_data_folder_with_other_dictionaries_is_refused(echostream, tmp_path, capsys):
    bundle = export_bundle(tmp_path / "bundle", echostream)
    message = refused(capsys, "from-bundle", bundle, "--out", tmp_path / "out.pt", "--data", PARITY / "data")
    assert "the dictionary of source_unigram" in message and not (tmp_path / "out.pt").exists()


def test_a_bundle_that_flags_cannot_say_stays_one(bundle_folder, tmp_path, capsys):
    """The tiny bundle's ST head has other attention heads than any command line gives."""
    assert "st.heads 2" in refused(capsys, "from-bundle", bundle_folder, "--out", tmp_path / "out.pt")
