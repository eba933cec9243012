"""`echostream info [BUNDLE]`: what a bundle is, and what this machine computes it with."""

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path

import soundfile
import torch
from safetensors import safe_open

from echostream_plugin import __version__
from echostream_plugin.cli_errors import DONE
from echostream_plugin.cli_options import DEFAULT_BUNDLE, devices
from echostream_plugin.inference.bundle import Bundle, load_bundle
from echostream_plugin.inference.digest import bundle_digest, digest
from echostream_plugin.inference.languages import SIDES, language_of
from echostream_plugin.inference.machine import device_name
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.modules.native import VARIABLE, instructions, library, library_file
from echostream_plugin.modules.packed import can_pack

PACKAGES = (
    *("torch", "numpy", "safetensors", "sentencepiece", "soundfile", "soxr", "kaldi-native-fbank", "tqdm"),
    *("fairseq-fixed", "simuleval"),
)
PARTS = {
    "encoder": "encoder",
    "source_unigram_decoder": "ASR head",
    "ctc_target_unigram_decoder": "ST head",
    "target_unigram_decoder": "MT decoder",
    "synthesizer_encoder": "T2U encoder",
    "decoder": "unit decoder",
    "chunk_decoder": "chunk decoder",
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def configure(info: argparse.ArgumentParser):
    """info: the command's own."""
    info.description = (
        "What a bundle holds (sizes, languages, options, its card, digests of its contents), the versions "
        "of what runs it, threads, processor and devices."
    )
    info.add_argument("bundle", type=Path, nargs="?", default=DEFAULT_BUNDLE, help=f"default: {DEFAULT_BUNDLE}")
    info.add_argument("--json", action="store_true", help="as one json object")
    info.set_defaults(run=print_info)


def print_info(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    facts = {"environment": environment()}
    if not args.json:
        print(as_text(facts))
    facts |= {"bundle": bundle_facts(args.bundle)}  # an error of the bundle comes after what could be said
    print(json.dumps(facts, ensure_ascii=False, indent=1) if args.json else as_text({"bundle": facts["bundle"]}))
    return DONE


def environment() -> dict:
    """Versions, processor, threads and devices, for people."""
    versions = {"echostream": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    compiled = instructions()
    named = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    return {
        "versions": {**versions, "libsndfile": soundfile.__libsndfile_version__},
        "system": platform.platform(),
        "processor": device_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "compiled operator": compiled or why_not_compiled(),
        "weights in half precision (--quantize)": "can be packed" if can_pack() or compiled else "cannot be packed",
        "threads": {"torch": torch.get_num_threads(), **named},
        "devices": {name: device_name(name) for name in devices()},
    }


def why_not_compiled() -> str:
    """Why steps run in Python."""
    if os.environ.get(VARIABLE) == "off":
        return f"off ({VARIABLE})"
    if (path := library_file()) is None:
        return "not built: steps run in Python (install a C++ compiler)"
    if library() is None:
        return f"{path} cannot be used: steps run in Python (install the package again)"
    return "not used: this processor has no AVX2"


def bundle_facts(folder: Path) -> dict:
    """What a bundle is, for people. Raises BundleError."""
    bundle = load_bundle(folder)
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    weights = sorted(path for path in files if path.suffix == ".safetensors")
    return {
        "folder": str(Path(folder).resolve()),
        "size": f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {len(files)} files",
        "card": bundle.card,
        "languages": languages(bundle),
        "parameters": parameters(bundle),
        "weights": {path.relative_to(folder).as_posix(): kinds_of(path) for path in weights},
        "encoder": bundle.config.encoder.kind,
        "source subwords": len(bundle.source_dictionary),
        "target subwords": len(bundle.target_dictionary),
        "units": bundle.units,
        "speech": f"{bundle.vocoder.config.sampling_rate} Hz" if bundle.vocoder is not None else "none (no vocoder)",
        "punctuator": " to ".join(bundle.punctuator.languages.values()) if bundle.punctuator_folder else "none",
        "session options": vars(bundle_options(bundle)),
        "asked for by the bundle": bundle.session,
        "sha256 of the weights": digest(*weights),
        "sha256 of the model": bundle_digest(folder),
    }


def languages(bundle: Bundle) -> str:
    """Source and target, where the card says them."""
    sides = [language_of(bundle.card, side) for side in SIDES]
    return " to ".join(sides) if all(sides) else "see the card"


def parameters(bundle: Bundle) -> dict:
    """How many there are, by part."""
    counts = {}
    for name, parameter in bundle.model.named_parameters():
        part = PARTS.get(name.split(".")[0], name.split(".")[0])
        counts[part] = counts.get(part, 0) + parameter.numel()
    if bundle.vocoder is not None:
        counts["vocoder"] = sum(parameter.numel() for parameter in bundle.vocoder.parameters())
    return {**{part: f"{count:,}" for part, count in counts.items()}, "all": f"{sum(counts.values()):,}"}


def kinds_of(weights: Path) -> str:
    """The types in which the tensors of a file are stored."""
    with safe_open(weights, framework="pt") as file:
        return ", ".join(sorted({file.get_slice(name).get_dtype() for name in file.keys()}))


def as_text(value, indent: int = 0) -> str:
    """Nested dicts as indented lines."""
    lines = []
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            lines += [f"{'  ' * indent}{name}:", as_text(inner, indent + 1)]
        else:
            shown = "none" if inner in ({}, [], "") else inner
            lines.append(f"{'  ' * indent}{name}: {shown}")
    return "\n".join(lines)
