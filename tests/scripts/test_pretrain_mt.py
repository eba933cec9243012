"""Text first, then speech: the decoder that learnt from text is the one that a training begins with, and its model
trains, translates offline, is bundled and streams as any other."""

import shutil

import pytest
import torch
from safetensors import safe_open

from echostream_plugin.data.subwords import train_subwords, write_task_table
from echostream_plugin.data.tables import read_table, write_table
from echostream_plugin.fairseq_ext.loading import export_bundle
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.session import TranslationSession
from tests.fairseq_ext.miniature import TINY, generate, train, write_corpus
from tests.scripts.conftest import load_script
from tests.tiny_bundle import make_talkative, speechlike

pretrain_mt = load_script("pretrain_mt")

CONDITIONED = ("--mt-decoder", "ctc_conditioned")
DECODER = "target_unigram_decoder."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The miniature corpus with SentencePiece models, and a table of pairs."""
    data = write_corpus(tmp_path_factory.mktemp("corpus"))
    rows = {split: read_table(data / f"{split}.tsv", ("id", "src_text", "tgt_text")) for split in ("train", "dev")}
    for side in ("src", "tgt"):
        words = {row["id"]: row[f"{side}_text"].replace(" ", "").replace("▁", " ").strip() for row in rows["train"]}
        processor = train_subwords(data.parent / f"{side}_unigram", "dict", sorted(words.values()) * 5, 24)
        for split, found in rows.items():
            for row in found:
                row[f"{side}_text"] = row[f"{side}_text"].replace(" ", "").replace("▁", " ").strip()
            write_task_table(data.parent / f"{side}_unigram" / f"{split}.tsv", found, f"{side}_text", processor)
    pairs = [{"source": row["src_text"], "target": row["tgt_text"]} for row in rows["train"]]
    write_table(data.parent / "pairs.tsv", ("source", "target"), pairs * 3)
    return data


def pretrain(corpus, out, *more):
    words = ["--data", corpus, "--multitask-config-yaml", "config_mtl.yaml", "--pairs", corpus.parent / "pairs.tsv"]
    words += ["--dev", corpus.parent / "pairs.tsv", "--out", out, "--batch", 8, *TINY]
    return pretrain_mt.main([str(word) for word in (*words, "--updates", 4, "--save-every", 2, *more)])


@pytest.fixture(scope="module")
def decoder(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("decoder") / "mt.safetensors"
    assert pretrain(corpus, path) == 0 and not path.with_name("mt.safetensors.training.pt").exists()
    return path


def test_what_it_can_do_with_perfect_transcripts_is_told(corpus, decoder, capsys):
    assert pretrain(corpus, decoder, "--score", corpus.parent / "pairs.tsv") == 0
    told = capsys.readouterr().out
    assert f"pairs.tsv: {len(read_table(corpus.parent / 'pairs.tsv'))} texts, BLEU " in told
    assert pretrain(corpus, decoder.with_name("none"), "--score", corpus.parent / "pairs.tsv") == 2


def weights(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def test_one_that_was_killed_goes_on_to_the_same_decoder(corpus, decoder, tmp_path, monkeypatch, capsys):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_mt, "save_decoder", killed)  # all is learnt, and the file is not written
        with pytest.raises(KeyboardInterrupt):
            pretrain(corpus, tmp_path / "mt.safetensors")
    assert pretrain(corpus, tmp_path / "mt.safetensors") == 0
    assert "goes on after update 4" in capsys.readouterr().out
    expected = weights(decoder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(tmp_path / "mt.safetensors").items())


def test_what_is_missing_is_said(corpus, tmp_path, capsys):
    assert pretrain(corpus, tmp_path / "x", "--pairs", tmp_path / "none.tsv") == 2
    assert "none.tsv" in capsys.readouterr().err
    copy = tmp_path / "copy" / corpus.name
    shutil.copytree(corpus.parent, copy.parent)
    (copy.parent / "src_unigram" / "dict.model").unlink()
    assert pretrain(copy, tmp_path / "x") == 2
    assert "dict.model: no such SentencePiece model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(corpus, decoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    train(corpus, folder, *CONDITIONED, "--load-mt-decoder", str(decoder), updates=2)
    return folder / "checkpoint_last.pt"


def test_a_training_begins_with_it(corpus, decoder, tmp_path):
    still = ("--lr", "1e-30", "--warmup-init-lr", "0")
    model = train(corpus, tmp_path, *CONDITIONED, "--load-mt-decoder", str(decoder), *still, updates=1)["model"]
    for name, tensor in weights(decoder).items():
        assert torch.equal(model[DECODER + name], tensor), name


def test_a_training_learns_all_of_it_and_goes_on_without_the_file(corpus, decoder, checkpoint, tmp_path):
    trained = torch.load(checkpoint, weights_only=False)["model"]
    moved = {name for name, tensor in weights(decoder).items() if not torch.equal(trained[DECODER + name], tensor)}
    assert {"transcript.gain", "transcript.embed.0.weight", "layers.0.fc1.weight"} <= moved
    shutil.copy(checkpoint, tmp_path / "checkpoint_last.pt")
    again = train(corpus, tmp_path, *CONDITIONED, "--load-mt-decoder", "gone.safetensors", updates=3)["model"]
    assert not torch.equal(again[DECODER + "layers.0.fc1.weight"], trained[DECODER + "layers.0.fc1.weight"])


def test_its_model_translates_offline_and_streams(corpus, checkpoint, tmp_path):
    generate(corpus, checkpoint, tmp_path / "results")
    assert (tmp_path / "results" / "generate-dev.txt").read_text().count("\nH-") == 4
    export_bundle(tmp_path / "bundle", checkpoint, corpus, session={"speech": False, "chunk_ms": 320})
    bundle, texts = load_bundle(tmp_path / "bundle"), set()
    assert bundle.config.mt.kind == "ctc_conditioned" and bundle.config.mt.source_vocab == bundle.config.asr.vocab
    make_talkative(bundle.model, 0.0, 0.0)
    speech = speechlike(3.0)
    for size in (160, 5120, 7777):
        session = TranslationSession(bundle)
        for start in range(0, len(speech), size):
            session.push(speech[start : start + size], 16000)
        session.finish()
        texts.add(tuple(session._stream.translator.tokens))
    assert len(texts) == 1 and texts.pop()
