"""scripts/compare_chunked_decoder.py: two systems are trained and measured, and a second run goes on from there."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echostream_plugin.benchmark.chunks import cost_rows
from echostream_plugin.decoders.speechllm import SpeechLLMConfig
from echostream_plugin.evaluation.chunked import Utterance, error_rate, joined, length_table
from echostream_plugin.fairseq_ext import launch
from echostream_plugin.inference.bundle import load_bundle
from tests.fairseq_ext.miniature import write_corpus
from tests.tiny_bundle import save_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]


def utterances(*texts):
    return [Utterance(np.full((3, 80), float(i)), text) for i, text in enumerate(texts)]


def test_utterances_are_joined_in_order():
    three = joined(utterances("a", "b", "c", "d", "e", "f", "g"), 3)
    assert [one.text for one in three] == ["a b c", "d e f"]
    assert three[1].features[:, 0].tolist() == [3.0] * 3 + [4.0] * 3 + [5.0] * 3
    assert [one.text for one in joined(utterances("a", "b"), 1)] == ["a", "b"] and joined(utterances("a"), 2) == []


def test_rates_and_their_table():
    found = {"references": ["a b", "c d"] * 10, "text": ["a b", "c x"] * 10, "ctc": ["a b", "c d"] * 10}
    assert error_rate(found).startswith("25.0 [") and error_rate(found, "ctc") == "0.00 [0.00, 0.00]"
    assert error_rate({"references": []}) == "–"
    table = length_table({"one": {"1": found}, "two": {"1": found}}, (1,), str.upper).splitlines()
    named = [line.split(" | ")[0] for line in table]
    assert table[0] == "| system | x1 |" and named[2:] == ["| ONE", "| its CTC head, greedy", "| TWO"]


def test_the_cost_of_a_chunk_grows_where_all_is_kept():
    """In bytes; time is printed, and not judged."""
    config = SpeechLLMConfig(vocab=20, encoder_dim=8, dim=16, layers=2, heads=2, ffn_dim=16, chunk_frames=8)
    rows = cost_rows(config, (-1, 2), (2, 60), repeats=1)
    sizes = {(row["context"], row["seconds"]): row["state_mb"] for row in rows}
    assert sizes[2, 2] == sizes[2, 60] and sizes[-1, 60] > 20 * sizes[-1, 2]
    assert all(row["ms"] > 0 for row in rows)


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path)


def test_the_whole_comparison(corpus, tmp_path, capsys, monkeypatch):
    bundle = save_tiny_bundle(tmp_path)
    script = runpy.run_path(str(ROOT / "scripts" / "compare_chunked_decoder.py"))
    words = [
        "--bundle", str(bundle), "--data", str(corpus), "--out", str(tmp_path / "out"), "--quick",
        "--multitask-config-yaml", "config_mtl.yaml", "--test-subset", "dev", "--max-tokens", "600",
        "--write", str(tmp_path / "page.md"),
        "--decoder", "--llm-layers 1 --llm-dim 16 --llm-heads 2 --llm-ffn-dim 16",
    ]  # fmt: skip
    (tmp_path / "page.md").write_text("before\n<!-- results:begin -->\n<!-- results:end -->\n")
    assert script["main"](words) == 0
    page = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() == page.strip()
    assert "| chunks of 0.32 s, context 4 |" in page and "| without chunks |" in page and "| all | 1 |" in page
    assert "### Cost of a chunk of 0.32 s" in page
    assert (tmp_path / "page.md").read_text(encoding="utf-8").count(page.strip()) == 1
    found = json.loads((tmp_path / "out" / "chunk8_context4" / "results.json").read_text(encoding="utf-8"))
    assert {times: len(each["text"]) for times, each in found["lengths"].items()} == {"1": 4, "2": 2}

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(launch, "train", never)
    (tmp_path / "out" / "chunk8_context4" / "results.json").unlink()  # what was trained is measured again
    assert script["main"](words) == 0 and (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")[:40] == page[:40]
    assert script["main"]([*words, "--beam", "2"]) == 2
    assert "results.json: of other options" in capsys.readouterr().err


def test_the_systems_have_the_encoder_of_the_bundle(tmp_path):
    """Whatever its kind is: the quickstart's is no Emformer."""
    from fairseq import options

    from echostream_plugin.fairseq_ext.flags import speechllm_config

    folder = ROOT / "examples" / "quickstart" / "bundle"
    script = runpy.run_path(str(ROOT / "scripts" / "compare_chunked_decoder.py"))
    args = script["parse_args"](["--bundle", str(folder), "--data", "data", "--out", "out"])
    words = script["training_words"](args, script["MAIN"], tmp_path)
    words = ["--user-dir", str(ROOT / "echostream_plugin"), *words]
    parsed = options.parse_args_and_arch(options.get_training_parser("speech_to_text_chunks"), words)
    encoder = load_bundle(folder).config.encoder
    built = speechllm_config(parsed, 100, 100, encoder.kind)
    dropouts = {name: 0.1 for name in ("dropout", "attention_dropout", "activation_dropout")}
    assert built.encoder == replace(encoder, **dropouts)
    assert (built.llm.dim, built.llm.chunk_frames, built.llm.context_chunks) == (256, 32, 4)
