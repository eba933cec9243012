"""Digests of contents. What is kept for another run (a checkpoint, a wav, a table's row) is known by the digest of what
it was made from, never by a path: a bundle that is replaced under its name is another bundle."""

import hashlib
import json
from pathlib import Path

NOT_THE_MODEL = ("card.json", "README.md")

DIGITS = 12  # of a digest, in names and tables


def digest(*paths) -> str:
    """Of the contents of files, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def bundle_digest(folder) -> str:
    """Of everything in a bundle that its texts and speech depend on: weights, configuration, dictionaries, vocoder and
    punctuator."""
    folder = Path(folder)
    files = [*folder.glob("*"), *folder.glob("vocoder/*"), *folder.glob("punctuator/*")]
    files = [path for path in files if path.is_file() and path.name not in NOT_THE_MODEL]
    return value_digest({path.relative_to(folder).as_posix(): digest(path) for path in files})


def value_digest(value) -> str:
    """Of a value that json can hold; the order of a dict's keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def module_digest(module, config: dict) -> str:
    """Of a torch module's parameters and buffers by name, and of the options that built it."""
    total = hashlib.sha256(value_digest(config).encode())
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
