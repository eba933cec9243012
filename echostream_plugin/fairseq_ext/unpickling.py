"""Checkpoints of fairseq and StreamSpeech without their code: a pickle may name the classes written here and no others.

Everything else that a file names becomes an `Inert` object, which keeps nothing and does nothing, and a warning lists
it; no function of the file's choosing is called. So a checkpoint with classes of a user directory that is not here, or
of another version of fairseq, still gives its parameters and options, and one from a stranger runs no code.
"""

import dataclasses
import enum
import importlib
import logging
import pickle
import sys
import types
import zipfile
from pathlib import Path

import torch

from echostream_plugin.config import ConfigError

logger = logging.getLogger(__name__)

# What a checkpoint may be made of: module -> names. All of it holds data; none of it runs what it is given.
TRUSTED = {
    "argparse": "Namespace",
    "builtins": "bool bytearray bytes complex dict float frozenset int list set str tuple",
    "collections": "OrderedDict defaultdict",
    "fairseq.data.dictionary": "Dictionary",
    "fairseq.distributed.utils": "_TensorPlaceholder",  # in what one process of a training sends to the others
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": "_reconstruct scalar",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode BytesNode EnumNode FloatNode IntegerNode PathNode StringNode",
    "pathlib": "PosixPath PurePosixPath",
    "torch": "Size device",
    "torch._utils": "_rebuild_parameter _rebuild_tensor _rebuild_tensor_v2",
    "torch.nn.parameter": "Parameter",
    "typing": "Any",
}
# enumerations and dataclasses of these modules; torch's own dtypes and storages are trusted too
TRUSTED_RECORDS = ("fairseq.dataclass.configs", "fairseq.dataclass.constants")
# what older Python, numpy and fairseq called the modules
_RENAMED = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "fairseq.data": "fairseq.data.dictionary",
}


class Inert:
    """Stands for an object whose class is not trusted; takes whatever a pickle does with it, and does nothing."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def nothing(self, *args):
        """Whatever it is called for, nothing comes of it."""
        return None

    __setstate__ = __setitem__ = append = extend = add = nothing

    def __call__(self, *args, **kwargs):
        return Inert()

    def __repr__(self):
        return f"<{type(self).__name__}, not read>"


def load_trusted(file, map_location="cpu"):
    """What `torch.load` gives, of a path or an open file, by the trusted classes alone. Raises ConfigError for a file
    that is no checkpoint, or is damaged.

    All of it is read: fairseq-train writes its best and last checkpoints over the ones before, and a process that has
    mapped one into its memory then dies without a word."""
    name = str(getattr(file, "name", file))
    if isinstance(file, str | Path) and not Path(file).is_file():
        raise ConfigError(f"{name}: no such checkpoint")
    _refuse_other_formats(file, name)
    unknown: set[str] = set()
    try:
        # not torch's weights_only: it stops at the first class that it does not know, here they are replaced
        value = torch.load(file, map_location=map_location, pickle_module=_pickle_module(unknown), weights_only=False)
    except Exception as error:  # what a damaged or hostile pickle raises is up to it
        raise ConfigError(
            f"{name}: cannot be read as a checkpoint ({error!r}); is the file whole, or a training just writing it?"
            f"{_other_checkpoint(Path(name))}"
        ) from error
    if unknown:
        logger.warning(
            f"{name}: holds objects of classes that are not trusted; left unread: {', '.join(sorted(unknown))}"
        )
    return value


def _other_checkpoint(damaged: Path) -> str:
    """What a training that cannot go on from a damaged checkpoint may go on from."""
    folder = damaged.parent if damaged.parent.is_dir() else Path()
    others = sorted(folder.glob("checkpoint*.pt"), key=lambda path: path.stat().st_mtime)
    others = [path for path in others if path.name != damaged.name]
    if not damaged.name.startswith("checkpoint"):
        return ""
    if others:
        return f" A training goes on from another one by --restore-file {others[-1]}"
    return " Name another one by --restore-file, or remove it to begin anew"


def check_parameters(state, where) -> None:
    """Raise ConfigError unless `state` maps names to tensors."""
    if not isinstance(state, dict):
        raise ConfigError(f"{where}: its 'model' is a {type(state).__name__}, not a mapping of names to tensors")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"{where}: parameter {name} is a {type(value).__name__}, not a tensor. If you trust the file, load it "
                "where it was made and save {'model': model.state_dict(), 'args': args} again"
            )


def _refuse_other_formats(file, name: str) -> None:
    """TorchScript holds a program and tar files of old torch versions unpack to the disk: neither is a checkpoint."""
    if isinstance(file, str | Path):
        with open(file, "rb") as opened:
            return _refuse_other_formats(opened, name)
    start = file.tell()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(member.rsplit("/", 1)[-1] == "constants.pkl" for member in archive.namelist()):
                raise ConfigError(f"{name}: a TorchScript program, not a checkpoint of fairseq-train")
    file.seek(start)
    if file.read(262)[257:] == b"ustar":
        raise ConfigError(f"{name}: a tar file of torch 0.x, not supported; save it again with a newer torch")
    file.seek(start)


def _pickle_module(unknown: set[str]):
    """What torch.load asks of a pickle module. unknown: gets the names of what was replaced."""

    class Unpickler(_TrustingUnpickler):
        replaced = unknown

    def load(file, **options):
        return Unpickler(file, **options).load()

    return types.SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)


class _TrustingUnpickler(pickle._Unpickler):  # the one in Python, whose operations can be narrowed
    replaced: set[str]
    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module, name):
        return _trusted(_RENAMED.get(module, module), name) or self._inert(module, name)

    def _inert(self, module: str, name: str) -> type:
        self.replaced.add(f"{module}.{name}")
        return type(f"{module}.{name}", (Inert,), {})

    def load_build(self):
        """State goes into objects, never into a class or function that the rest of the program uses."""
        target = self.stack[-2]
        if isinstance(target, type) or isinstance(target, types.FunctionType | types.BuiltinFunctionType):
            raise pickle.UnpicklingError(f"the file sets attributes of {target!r}")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _trusted(module: str, name: str):
    """The object of a trusted name, else None."""
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if module == "_codecs" and name == "encode":
        return _latin1
    if name in TRUSTED.get(module, "").split():
        return getattr(importlib.import_module(module), name, None)
    if module in TRUSTED_RECORDS:
        value = getattr(importlib.import_module(module), name, None)
        if isinstance(value, type) and (issubclass(value, enum.Enum) or dataclasses.is_dataclass(value)):
            return value
    return None


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


class _Torch(types.ModuleType):
    """`torch` as fairseq's checkpoint functions see it: `load` trusts no more than `load_trusted` does."""

    def __getattr__(self, name):
        return getattr(torch, name)

    @staticmethod
    def load(file, map_location="cpu", **ignored):
        return load_trusted(file, map_location)


def guard_fairseq() -> None:
    """Let fairseq-train, fairseq-generate and whoever else loads checkpoints by fairseq read them by `load_trusted`.

    Since torch 2.6 their own `torch.load` refuses every class but tensors; before, it ran what a file asked for. Of
    several processes one reads the file and sends it to the others, who load what comes."""
    for name in ("fairseq.checkpoint_utils", "fairseq.distributed.utils"):
        importlib.import_module(name)
        sys.modules[name].torch = _Torch("torch")
