"""The first push costs what any other does: nothing is loaded or made ready in live audio."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, torch
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import speechlike, tiny_bundle
session = TranslationSession(optimize(tiny_bundle()))
samples = speechlike(3.0)
session.push(samples[:100], 16000)  # makes the front end
before = set(sys.modules)
session.push(samples, 16000)
session.finish()
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print(*[name for name in ("sympy", "torch._dynamo", "torch.fx.experimental.symbolic_shapes") if name in sys.modules])
"""


def test_no_module_is_loaded_by_a_push():
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_no_compiler_is_loaded_with_a_bundle():
    """It takes more than a second, and sessions are to be ready within two."""
    bundle = ROOT / "examples" / "quickstart" / "bundle"
    script = f"import sys; from echostream_plugin.inference.bundle import load_bundle; load_bundle({str(bundle)!r})"
    assert modules_after(script) == []


def test_no_compiler_is_loaded_with_a_model_of_any_kind():
    script = """
import sys
from echostream_plugin.decoders.speechllm import SpeechLLMConfig, SpeechLLMDecoder
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.modules.weights import plan
from echostream_plugin.vocoder.files import KINDS, make_vocoder
for encoder in ENCODERS.values():
    plan(lambda: encoder(encoder.Config()), encoder.__name__)
for config, _ in KINDS.values():
    plan(lambda: make_vocoder(config()), "vocoder")
plan(lambda: SpeechLLMDecoder(SpeechLLMConfig(vocab=20, encoder_dim=8)), "chunks")
"""
    assert modules_after(script) == []


def modules_after(script):
    """Modules of torch's compiler that a program has loaded."""
    script += "\nprint(*{'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()
