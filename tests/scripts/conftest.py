"""A bundle with a tiny random model and two sample recordings, and the scripts as modules."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import soundfile

from tests.tiny_bundle import save_tiny_bundle, speechlike

ROOT = Path(__file__).resolve().parents[2]


def load_script(name: str):
    """A file of scripts/ as a module."""
    path = ROOT / "scripts" / f"{name}.py"
    key = "script_" + name.replace("/", "_")
    spec = importlib.util.spec_from_file_location(key, path)
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    save_tiny_bundle(folder)
    samples = folder / "bundle" / "samples"
    samples.mkdir()
    entries = []
    for number, rate in enumerate((16000, 44100)):
        soundfile.write(samples / f"say{number}.wav", speechlike(1.5 + 0.61 * number, rate, seed=number), rate)
        entries.append({"wav": f"say{number}.wav", "source": f"s{number} s2", "target": f"t{number} t2 t3 t4"})
    (samples / "samples.json").write_text(json.dumps(entries))
    return folder / "bundle"
