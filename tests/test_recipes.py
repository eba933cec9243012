"""The recipes of docs/architecture.md, followed: their files in a copy of the package, trained, bundled, streamed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"^```python\n# (echostream_plugin/\S+/(\w+)\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GRU = "--arch echostream_gru --encoder-layers 1 --encoder-embed-dim 32 --subsampling-channels 4".split()
REST = (
    "--translation-decoder-layers 1 --decoder-layers 1 --decoder-embed-dim 32 --decoder-attention-heads 2 "
    "--decoder-ffn-embed-dim 64 --ctc-upsample-rate 6 --uni-encoder"
).split()


def follow(folder: Path):
    """A copy of the package with the files of the recipes, each imported where its page says."""
    ignore = shutil.ignore_patterns("__pycache__", "bundles", "static")
    shutil.copytree(ROOT / "echostream_plugin", folder / "echostream_plugin", ignore=ignore)
    for path, name, code in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        assert not (folder / path).exists(), path
        (folder / path).write_text(code, encoding="utf-8")
        with open((folder / path).parent / "__init__.py", "a", encoding="utf-8") as file:
            file.write(f"\nfrom . import {name}\n")


def streamed(folder: str) -> dict:
    """What became of the toys; runs in the copy, in a process of its own."""
    import torch

    import echostream_plugin
    from echostream_plugin.cli import main
    from echostream_plugin.fairseq_ext.loading import export_bundle
    from echostream_plugin.inference.bundle import load_bundle
    from echostream_plugin.inference.session import TranslationSession
    from tests.fairseq_ext import miniature
    from tests.tiny_bundle import speechlike

    folder = Path(folder)
    miniature.TINY, miniature.ROOT = GRU + REST, folder
    (folder / "corpus").mkdir()
    data = miniature.write_corpus(folder / "corpus")
    miniature.train(data, folder / "trained", updates=2)
    suited = {"policy": "align-att", "newest_frames": 1, "chunk_ms": 320, "speech": False}
    bundle = load_bundle(
        export_bundle(folder / "bundle", folder / "trained" / "checkpoint_last.pt", data, session=suited)
    )
    encoder, features = bundle.model.encoder, torch.randn(2, 100, 80)
    torch.nn.init.constant_(bundle.model.ctc_target_unigram_decoder.proj.bias[:1], -99)  # it finds something to write
    with torch.inference_mode():
        whole, state, frames = encoder(features, torch.tensor([100, 100]))[0], encoder.initial_state(2), []
        for piece in features.split((1, 30, 0, 66, 3), dim=1):
            out, state = encoder.step(piece, state)
            frames.append(out)
        difference = (torch.cat([*frames, encoder.finish(state)], dim=1) - whole).abs().max()
    early = {}
    for newest, decoding in ((1, "incremental"), (1, "recompute"), (10_000, "incremental")):
        session = TranslationSession(bundle, newest_frames=newest, decoding=decoding)
        for seed in range(2):
            session.push(speechlike(1.5, seed=seed), 16000)
        early[f"{newest} {decoding}"] = len(session._stream.translator.tokens)
        session.finish()
        assert session._stream.translator.tokens  # of a model that has learnt next to nothing
    try:
        main(["translate", "--help"])
    except SystemExit:
        pass
    told = {"package": echostream_plugin.__file__, "encoder": type(encoder).__name__, "policy": session.options.policy}
    return {**told, "difference": float(difference), "early": early}


def test_a_policy_and_an_encoder_are_added_by_the_recipes(tmp_path):
    pytest.importorskip("fairseq")
    assert len(BLOCK.findall(PAGE.read_text(encoding="utf-8"))) == 2
    follow(tmp_path)
    code = "import json, sys; from tests.test_recipes import streamed; print(json.dumps(streamed(sys.argv[1])))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *shown, told = done.stdout.splitlines()
    told, shown = json.loads(told), " ".join(" ".join(shown).split())
    assert "--newest-frames" in shown and "'align-att': Writes the tokens that attend" in shown
    assert told["package"].startswith(str(tmp_path))
    assert (told["encoder"], told["policy"]) == ("GRUEncoder", "align-att")
    assert told["difference"] < 1e-5
    assert told["early"]["1 incremental"] and told["early"]["1 recompute"] and not told["early"]["10000 incremental"]
