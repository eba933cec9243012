"""What a training or a generation refuses, in one line that says why; and what it survives."""

import logging
import shutil

import pytest
import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from echostream_plugin.config import ConfigError
from echostream_plugin.evaluation.generate_log import read_generate_logs
from tests.fairseq_ext.miniature import load_task, run_cli, task_arguments, train


def test_a_unit_beyond_the_code_size_is_refused_with_both_numbers(corpus, tmp_path):
    """Units of the miniature go to 7; fairseq would take <unk> for those that its dictionary does not have."""
    with pytest.raises(ConfigError, match="train.tsv: .*unit 7, but --target-code-size 5 .* 0 to 4; .* at least 8"):
        load_task(corpus, "--target-code-size", "5")
    load_task(corpus, "--target-code-size", "8")
    shutil.copytree(corpus.parent, tmp_path / "corpus")
    path = tmp_path / "corpus" / "fbank2unit" / "train.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("\t0 1", "\tu0 1"), encoding="utf-8")
    with pytest.raises(ConfigError, match="train.tsv: tgt_audio: 'u0' is no unit"):
        load_task(path.parent)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--max-tokens", "80"], "feature frames of the source 96 to 192, allowed 80 .--max-tokens"),
        (["--max-target-positions", "3"], "train: every one of its 12 utterances is left out: units 4 to 8, allowed 3"),
    ],
)
def test_when_every_sample_is_left_out_the_error_says_why(corpus, tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        train(corpus, tmp_path, *flags, "--disable-validation", updates=1)


def test_a_torn_checkpoint_names_another_to_go_on_from(corpus, tmp_path):
    train(corpus, tmp_path, "--save-interval-updates", "1", updates=2)
    last = tmp_path / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[:-5000])
    with pytest.raises(ConfigError, match="checkpoint_last.pt: .*is the file whole.*--restore-file .*checkpoint_"):
        train(corpus, tmp_path, updates=3)
    for path in set(tmp_path.glob("*.pt")) - {last}:
        path.unlink()
    with pytest.raises(ConfigError, match="by --restore-file, or remove it to begin anew"):
        train(corpus, tmp_path, updates=3)


def test_label_smoothing_is_that_of_the_yaml_or_refused(corpus):
    task, _ = load_task(corpus)

    def criterion(flag):
        config = convert_namespace_to_omegaconf(task.args).criterion
        config.label_smoothing = flag
        return task.build_criterion(config)

    assert criterion(0.1).smoothing == criterion(None).smoothing == 0.1
    for flag in (0.0, 0.2):
        with pytest.raises(ConfigError, match=f"--label-smoothing {flag}: .*config_mtl.yaml is 0.1"):
            criterion(flag)


def test_amp_reaches_the_model(corpus):
    """fairseq's --amp is an autocast around the criterion; what the criterion opens must not end it."""
    task, dataset = load_task(corpus)
    model = task.build_model(task.args)
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion)
    seen = []
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output[0].dtype))
    heads = model.source_unigram_decoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    sample = dataset.collater([dataset[0], dataset[1]])
    criterion(model, sample)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, _ = criterion(model, sample)
    heads.remove()
    assert seen[1] == torch.float32 and seen[3] == torch.bfloat16 and torch.isfinite(loss)


def test_amp_without_a_gpu_says_that_it_trains_in_float32(corpus, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(corpus, tmp_path, "--amp", updates=1)
    assert "--amp: half precision needs a GPU" in caplog.text


def test_an_utterance_without_units_is_generated(corpus, tmp_path, capsys):
    """fairseq's scorer ends the process at a hypothesis without symbols; here it gets </s>, and nothing is spoken."""
    content = train(corpus, tmp_path, updates=1)
    weights = content["model"]
    weights["decoder.layer_norm.weight"][:], weights["decoder.layer_norm.bias"][:] = 0, 1
    weights["decoder.embed_tokens.weight"][-1] = 10  # the blank, always
    torch.save(content, tmp_path / "silent.pt")
    results = tmp_path / "out"
    run_cli(
        "fairseq_cli.generate",
        [*task_arguments(corpus), "--path", str(tmp_path / "silent.pt"), "--gen-subset", "dev", "--beam-mt", "1",
         "--max-tokens", "2000", "--cpu", "--results-path", str(results)],
    )  # fmt: skip
    lines = (results / "generate-dev.txt").read_text().splitlines()
    units = [line.split("\t")[2] for line in lines if line.startswith("D-")]
    assert units == [""] * 4
    assert not any(read_generate_logs([results / "generate-dev.txt"]).units.values())
