"""Parameters of a model from a safetensors file of anybody's: checked before anything of their size is made."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from echostream_plugin.config import ConfigError

NAMED = 4  # so many of the wrong names are told
ROW_SCALES = ".row_scales"  # after the name of a weight that is stored in 8 bits


def to_int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [rows, ...] as whole numbers of -127 to 127 and the scale of each row [rows], in float32."""
    rows = _as_half(weight.detach().float().flatten(1))
    scales = rows.abs().amax(1).div(127).clamp(min=torch.finfo(torch.float32).tiny)
    return (rows / scales[:, None]).round().to(torch.int8).view(weight.shape), scales


def from_int8_rows(tensors: dict) -> dict:
    """Parameters by name, those that were stored by `to_int8_rows` in float32 again, as numbers that half precision
    has: a model computes with them in half precision as it does with others (`inference.optimize`). Raises ValueError.
    """
    scales = {name.removesuffix(ROW_SCALES): tensor for name, tensor in tensors.items() if name.endswith(ROW_SCALES)}
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(ROW_SCALES)}
    for name, scale in scales.items():
        weight = found[name]
        if weight.dtype != torch.int8 or scale.shape != weight.shape[:1] or not scale.is_floating_point():
            raise ValueError(f"{name}{ROW_SCALES} does not fit {name}: a scale for each row of whole numbers")
        found[name] = _as_half(weight.float().mul_(scale.float().view(-1, *(1,) * (weight.dim() - 1))))
    return found


def _as_half(values: Tensor) -> Tensor:
    """Float32 values rounded to half precision, but for those beyond its range."""
    rounded = values.half().float()
    return rounded if _all_finite(rounded) else torch.where(rounded.isfinite(), rounded, values)


def _all_finite(values: Tensor) -> bool:
    """In one pass and without a copy: NaN is the least and the greatest of whatever it is among."""
    return not values.numel() or all(bound.isfinite() for bound in values.aminmax())


def build(make, path) -> nn.Module:
    """A model with the parameters of a safetensors file, in float32.

    make() returns the model; its shapes are compared with the file's before it is made in earnest, so that sizes that
    do not belong to the file cost no memory. Weights may be stored by `to_int8_rows`, with their scales beside them.
    Raises ConfigError that names the file and the parameters: missing, unknown, of another shape or type, infinite."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
            scaled = {name + ROW_SCALES for name in shapes}
            compare(plan(make, path), {name: shapes[name] for name in shapes if name not in scaled}, path)
            # copies: a file that is mapped may be overwritten while somebody talks
            tensors = from_int8_rows({name: file.get_tensor(name).clone() for name in shapes})
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: not a readable safetensors file ({error})") from error
    with Undrawn():
        model = make()
    fill(model, tensors, path)
    return model


def plan(make, path) -> dict:
    """The model's parameters and buffers by name, tied ones the same object, without their memory."""
    try:
        with torch.device("meta"), Uninitialised():
            return make().state_dict(keep_vars=True)
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        raise ConfigError(f"{path}: the config beside it describes no model that can be made ({error})") from error


DRAWN = (Tensor.normal_, Tensor.uniform_)


class Undrawn(TorchFunctionMode):
    """Inside, parameters get no first values: for a model whose parameters are all replaced."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in DRAWN or getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


class Uninitialised(Undrawn):
    """Inside, no weights are normalised either: on the meta device that, as drawing, loads torch's compiler."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch._weight_norm:
            return args[0]
        if function is torch.norm_except_dim:
            weight, dim = args[0], args[2]
            return weight.new_empty([size if axis == dim else 1 for axis, size in enumerate(weight.shape)])
        return super().__torch_function__(function, types, args, kwargs)


def compare(wanted: dict, shapes: dict, path):
    """Raise ConfigError where the shapes by name are not those of the wanted parameters; of tied ones one is enough."""
    there = {id(tensor) for name, tensor in wanted.items() if name in shapes}
    missing, unknown, reshaped = differences({name: tuple(wanted[name].shape) for name in wanted}, shapes)
    problems = {
        "unknown": sorted(unknown),
        "missing": [name for name in missing if id(wanted[name]) not in there],
        "of another shape": [
            f"{name} has shape {shapes[name]}, the config says {tuple(wanted[name].shape)}" for name in reshaped
        ],
    }
    for problem, names in problems.items():
        if names:
            raise ConfigError(f"{path}: parameters {problem} for the config beside it: {some(names)}")


def differences(wanted: dict, given: dict) -> tuple[list, list, list]:
    """Names of what is missing in the given, of what is unknown there, and of what has another shape; tensors, or
    shapes, by name."""
    shapes = [{name: getattr(value, "shape", value) for name, value in state.items()} for state in (wanted, given)]
    missing, unknown = [name for name in wanted if name not in given], [name for name in given if name not in wanted]
    return missing, unknown, [name for name in wanted if name in given and shapes[0][name] != shapes[1][name]]


def misfits(wanted: dict, given: dict, says: str = "the options give") -> list[str]:
    """How the tensors by name differ from the wanted ones, in words: names and shapes; says: whose the wanted are."""
    missing, unknown, reshaped = differences(wanted, given)
    problems = [f"missing {name}" for name in missing] + [f"unknown {name}" for name in unknown]
    return problems + [
        f"{name} has shape {list(given[name].shape)}, {says} {list(wanted[name].shape)}" for name in reshaped
    ]


def there_and_here(here: dict, there: dict, may_differ=()) -> list[str]:
    """How a file's tensors by name differ from a model's that is to take them, in words; may_differ: beginnings of
    names that only one of the two may have."""
    missing, unknown, reshaped = differences(here, there)
    words = [f"{name} has shape {list(there[name].shape)} there and {list(here[name].shape)} here" for name in reshaped]
    words += [f"{name} is not there" for name in missing if not name.startswith(may_differ)]
    return words + [f"{name} is not here" for name in unknown if not name.startswith(may_differ)]


def fill(model: nn.Module, tensors: dict, path):
    """Give the model the tensors, which are its own from then on; those that are no floating-point numbers, or not
    finite, are named."""
    wanted = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if wanted[name].is_floating_point() != tensor.is_floating_point() or tensor.is_complex():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ConfigError(f"{path}: {name} holds {kind} where the model has {_kind(wanted[name])}")
        wanted[name].data = tensor.to(wanted[name].dtype)
        check_finite(name, wanted[name].data, path)


def check_finite(name: str, values: Tensor, path):
    """Raises ConfigError that names the file and the parameter where a value is NaN or infinite."""
    if not _all_finite(values):
        raise ConfigError(f"{path}: {name} holds numbers that are not finite (NaN or infinity)")


def _kind(tensor: Tensor) -> str:
    return "floating-point numbers" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")


def some(names: list) -> str:
    """The first of the names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
