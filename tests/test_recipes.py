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
    "--mt-decoder gru --mt-hidden-dim 24 --translation-decoder-layers 2 "
    "--decoder-layers 1 --decoder-embed-dim 32 --decoder-attention-heads 2 "
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


def encoded(encoder) -> float:
    """The largest difference between an encoder's steps and its parallel form."""
    import torch

    features = torch.randn(2, 100, 80)
    whole, state, frames = encoder(features, torch.tensor([100, 100]))[0], encoder.initial_state(2), []
    for piece in features.split((1, 30, 0, 66, 3), dim=1):
        out, state = encoder.step(piece, state)
        frames.append(out)
    return float((torch.cat([*frames, encoder.finish(state)], dim=1) - whole).abs().max())


def decoded(decoder) -> dict:
    """The largest difference between an MT decoder's steps, as the source comes in, and its parallel form under the
    mask that shows each token what was there; its beam search; the shape of a step without source."""
    import torch

    from echostream_plugin.decoders.beam import beam_search

    tokens, source = torch.randint(4, 8, (2, 6)), torch.randn(2, 9, decoder.config.encoder_dim)
    state, states = decoder.initial_state(2), []
    for heard, said in ((3, 1), (6, 3), (9, 2)):
        state = decoder.add_source(source[:, heard - 3 : heard], state)
        first = sum(part.size(1) for part in states)
        out, state = decoder.step(tokens[:, first : first + said], state)
        states.append(out)
    seen = torch.tensor([3, 6, 6, 6, 9, 9])
    whole = decoder(tokens, source, None, (torch.arange(9) >= seen[:, None]).expand(2, -1, -1))
    alone = decoder.step(torch.tensor([[2]]), decoder.without_source())[0]
    difference = float((torch.cat(states, dim=1) - whole).abs().max())
    beams = beam_search(decoder, source[:1], beam=3, max_tokens=4)
    return {"difference": difference, "beams": beams, "alone": list(alone.shape)}


def written_early(bundle) -> dict:
    """How many tokens were written before the source ended, by what the policy was told and the way of decoding."""
    from echostream_plugin.inference.session import TranslationSession
    from tests.tiny_bundle import speechlike

    early = {}
    for newest, decoding in ((1, "incremental"), (1, "recompute"), (10_000, "incremental")):
        session = TranslationSession(bundle, newest_frames=newest, decoding=decoding)
        for seed in range(2):
            session.push(speechlike(1.5, seed=seed), 16000)
        early[f"{newest} {decoding}"] = len(session._stream.translator.tokens)
        session.finish()
        assert session._stream.translator.tokens  # of a model that has learnt next to nothing
    return early | {"policy": session.options.policy}


def streamed(folder: str) -> dict:
    """What became of the toys; runs in the copy, in a process of its own."""
    import torch

    import echostream_plugin
    from echostream_plugin.cli import main
    from echostream_plugin.fairseq_ext.card import model_card
    from echostream_plugin.fairseq_ext.checkpoints import from_bundle
    from echostream_plugin.fairseq_ext.loading import export_bundle
    from echostream_plugin.inference.bundle import load_bundle
    from tests.fairseq_ext import miniature

    folder = Path(folder)
    miniature.TINY, miniature.ROOT = GRU + REST, folder
    (folder / "corpus").mkdir()
    data = miniature.write_corpus(folder / "corpus")
    miniature.train(data, folder / "trained", updates=2)
    suited = {"policy": "align-att", "newest_frames": 1, "chunk_ms": 320, "speech": False}
    bundle = load_bundle(
        export_bundle(folder / "bundle", folder / "trained" / "checkpoint_last.pt", data, session=suited)
    )
    encoder, decoder = bundle.model.encoder, bundle.model.target_unigram_decoder
    torch.nn.init.constant_(bundle.model.ctc_target_unigram_decoder.proj.bias[:1], -99)  # it finds something to write
    with torch.inference_mode():
        told = {"encoder": type(encoder).__name__, "difference": encoded(encoder), "decoder": type(decoder).__name__}
        told |= {"package": echostream_plugin.__file__, "decoding": decoded(decoder)}
    from_bundle(folder / "bundle", folder / "again.pt")
    try:
        main(["translate", "--help"])
    except SystemExit:
        pass
    return told | {"early": written_early(bundle), "flags": model_card(folder / "again.pt")["flags"]}


def test_a_policy_an_encoder_and_a_decoder_are_added_by_the_recipes(tmp_path):
    pytest.importorskip("fairseq")
    assert len(BLOCK.findall(PAGE.read_text(encoding="utf-8"))) == 3
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
    assert (told["encoder"], told["decoder"]) == ("GRUEncoder", "GRUDecoder")
    assert told["difference"] < 1e-5
    decoding, early = told["decoding"], told["early"]
    assert decoding["difference"] < 1e-5 and 0 < len(decoding["beams"]) <= 4 and decoding["alone"] == [1, 1, 32]
    flags = {name: told["flags"].get(name) for name in ("mt_decoder", "mt_hidden_dim", "translation_decoder_layers")}
    assert flags == {"mt_decoder": "gru", "mt_hidden_dim": 24, "translation_decoder_layers": 2}
    assert early["policy"] == "align-att"
    assert early["1 incremental"] and early["1 recompute"] and not early["10000 incremental"]
