"""What `pip install .` brings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "examples" / "quickstart" / "bundle"


def test_without_a_compiler_the_package_is_built_all_the_same(tmp_path):
    folders = ["--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    command = [sys.executable, "setup.py", "-q", "build_ext", *folders]
    nowhere = {name: str(tmp_path / "no-compiler") for name in ("CC", "CXX")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **nowhere})
    assert done.returncode == 0, done.stderr
    assert "_native" in done.stderr and not list(tmp_path.rglob("_native*"))


def test_the_sources_of_the_operator_are_all_named():
    """In setup.py, to be compiled, and in MANIFEST.in, to travel with them."""
    text, folder = (ROOT / "setup.py").read_text(), ROOT / "echostream_plugin" / "csrc"
    assert all(f'"{path.stem}"' in text for path in folder.glob("*.cpp"))
    assert "recursive-include echostream_plugin/csrc *.cpp *.h" in (ROOT / "MANIFEST.in").read_text()


def test_the_built_package_holds_the_bundle_of_the_tree(tmp_path):
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "lib" / "echostream_plugin" / "bundles" / "quickstart"
    files = [path.relative_to(BUNDLE) for path in BUNDLE.rglob("*") if path.is_file()]
    assert files and all((copy / file).read_bytes() == (BUNDLE / file).read_bytes() for file in files)
    found = "from echostream_plugin.cli_options import DEFAULT_BUNDLE; print(DEFAULT_BUNDLE)"
    done = subprocess.run([sys.executable, "-c", found], cwd=tmp_path / "lib", capture_output=True, text=True)
    assert done.stdout.strip() == str(copy), done.stderr
    assert not (ROOT / "echostream_plugin" / "bundles").exists()  # the tree holds it once
