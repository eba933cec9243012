"""A bundle: everything that translating needs in one folder, as safetensors, json and text. Nothing in it runs code.

model.safetensors    parameters in half precision, or weights in 8 bits with a scale for each row
config.json          format, feature parameters, model configuration, session options that suit the model
gcmvn.json           mean and std of the features
source.dict.txt, target.dict.txt    fairseq dictionaries (source.spm.model, target.spm.model where there are any)
vocoder/             the unit vocoder, if there is one
punctuator/          marks and case, if there are any (`inference.punctuator`)
card.json            what it is, where from, how good
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from echostream_plugin.config import ConfigError, ModelConfig, read_model
from echostream_plugin.constants import SAMPLE_RATE
from echostream_plugin.decoders.speechllm import SpeechLLMModelConfig
from echostream_plugin.files import write_json, write_tensors
from echostream_plugin.inference.confidence import GateModel
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.inference.errors import BundleError
from echostream_plugin.inference.frontends import FRONTENDS
from echostream_plugin.inference.options import named_options
from echostream_plugin.inference.punctuator import FOLDER as PUNCTUATOR
from echostream_plugin.inference.punctuator import BundlePunctuator, read_punctuator
from echostream_plugin.model import S2STModel, SpeechLLMModel, model_of
from echostream_plugin.modules.weights import ROW_SCALES, build, some, to_int8_rows
from echostream_plugin.vocoder import CodeHiFiGAN, CodeVocos, load_vocoder, save_vocoder

FORMAT, VERSION = "echostream-bundle", 1


@dataclass
class Bundle:
    """A model with what belongs to it. Sessions only read it, so any number of them share one."""

    model: S2STModel | SpeechLLMModel
    config: ModelConfig | SpeechLLMModelConfig
    source_dictionary: Dictionary
    target_dictionary: Dictionary
    cmvn_mean: np.ndarray
    cmvn_std: np.ndarray
    vocoder: CodeHiFiGAN | CodeVocos | None = None
    card: dict = dataclasses.field(default_factory=dict)
    session: dict = dataclasses.field(default_factory=dict)  # `SessionOptions` of the model by name
    quantize: str = "none"  # what `inference.optimize` did to the weights
    instructions: str | None = None  # of `modules.native.PATHS`, where the compiled operator takes the steps
    target_spm: Path | None = None  # SentencePiece model that makes target subwords, where there is one
    punctuator_folder: Path | None = None  # read when it is needed first
    gate: GateModel | None = None  # tells how sure the model is of a translation, where it was calibrated

    def __post_init__(self):
        self.model.eval()
        if self.vocoder is not None:
            self.vocoder.eval()
        check_fit(self, "this bundle")

    @property
    def units(self) -> int:
        """K, the number of units; 0 where the model writes text only."""
        return 0 if self.config.in_chunks else self.config.unit.units

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    @cached_property
    def punctuator(self) -> BundlePunctuator:
        """Marks and case for both languages. Raises BundleError where there is none, or a broken one."""
        if self.punctuator_folder is None:
            raise BundleError(
                "the bundle has no punctuator (folder punctuator/): add one with echostream bundle --punctuator"
            )
        return read_punctuator(self.punctuator_folder)

    def to(self, device) -> "Bundle":
        """Move the parameters, in place. Raises BundleError where their packing ties them to the CPU."""
        packed = self.quantize in ("half", "int8") or self.instructions is not None
        if packed and torch.device(device).type != "cpu":
            raise BundleError(
                f"the weights are packed ({self.quantize}) for the CPU: load the bundle again for {device}"
            )
        self.model.to(device)
        if self.vocoder is not None:
            self.vocoder.to(device)
        return self


def check_fit(bundle: Bundle, where):
    """Raise BundleError where the parts do not belong together."""
    config = bundle.config
    sizes = [
        *(
            (f"{side} dictionary", len(getattr(bundle, f"{side}_dictionary")), option, size)
            for side, option, size in config.vocabularies
        ),
        ("gcmvn mean", len(bundle.cmvn_mean), "encoder.input_dim", config.encoder.input_dim),
        ("gcmvn std", len(bundle.cmvn_std), "encoder.input_dim", config.encoder.input_dim),
    ]
    for part, size, option, wanted in sizes:
        if size != wanted:
            raise BundleError(f"{where}: the {part} has {size} entries, but the model's {option} is {wanted}")
    if not (np.isfinite(bundle.cmvn_mean).all() and np.isfinite(bundle.cmvn_std).all() and (bundle.cmvn_std > 0).all()):
        raise BundleError(f"{where}: gcmvn holds numbers that are not finite, or a std that is not positive")
    if bundle.vocoder is not None and config.in_chunks:
        raise BundleError(f"{where}: the model writes text only, so a vocoder has nothing to speak; leave it out")
    if bundle.vocoder is not None and bundle.vocoder.config.num_embeddings != bundle.units:
        raise BundleError(
            f"{where}: the vocoder speaks {bundle.vocoder.config.num_embeddings} units, but the model's unit "
            f"dictionary has {bundle.units} (unit.vocab {config.unit.vocab}: units + 4 special symbols + <blank>)"
        )


def save_bundle(
    folder,
    model: S2STModel | SpeechLLMModel,
    *,
    source_dictionary,
    target_dictionary,
    gcmvn,
    vocoder=None,
    source_spm=None,
    target_spm=None,
    card: dict | None = None,
    session: dict | None = None,
    config: ModelConfig | SpeechLLMModelConfig | None = None,
    gate: GateModel | None = None,
    int8: Sequence[str] = (),
) -> Path:
    """Write a bundle and read it back once, so that what is written can be used. Raises BundleError, ConfigError.

    model: of any kind, a training's too; source_dictionary, target_dictionary: fairseq's files; gcmvn: npz or json with
    `mean` and `std`, None where the features need none; vocoder: a folder or a vocoder; source_spm, target_spm:
    SentencePiece models; card: facts for people; session: `SessionOptions` that suit the model, by name, taken where a
    user gives none; config: default `model.config`; gate: of scripts/calibrate_gate.py; int8: parts ("encoder") whose
    weights are stored in 8 bits, a scale for each row, in place of half precision."""
    folder, config = Path(folder), config or model.config
    folder.mkdir(parents=True, exist_ok=True)
    mean, std = statistics(config, gcmvn)
    write_tensors(folder / "model.safetensors", _in_eight_bits(_half_precision(model, config), model, int8))
    description = {
        "format": FORMAT,
        "version": VERSION,
        "sample_rate": SAMPLE_RATE,
        "features": FRONTENDS[config.encoder.features].DESCRIPTION,
        "model": config.to_dict(),
        "session": session or {},
        **({"gate": gate.to_dict()} if gate is not None else {}),
    }
    write_json(folder / "config.json", description)
    write_json(folder / "gcmvn.json", {"mean": mean.tolist(), "std": std.tolist()})
    write_json(folder / "card.json", card or {})
    _copy_side(folder, "source", source_dictionary, source_spm)
    _copy_side(folder, "target", target_dictionary, target_spm)
    if vocoder is not None:
        save_vocoder(vocoder if isinstance(vocoder, torch.nn.Module) else load_vocoder(vocoder), folder / "vocoder")
    load_bundle(folder)
    return folder


def load_bundle(folder, device="cpu") -> Bundle:
    """Read a bundle; parameters become float32. Raises BundleError that names the file and what is wrong with it.

    Sessions only read what this returns, so threads may share it once it is ready (`to`, `inference.optimize`)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such bundle folder; make one with echostream bundle")
    description = _read_json(folder / "config.json")
    if description.get("format") != FORMAT:
        raise BundleError(f"{folder / 'config.json'}: not an EchoStream bundle ('format' must be '{FORMAT}')")
    if description.get("version") != VERSION:
        raise BundleError(
            f"{folder / 'config.json'}: version {description.get('version')}; this program reads version {VERSION}"
        )
    session = _checked_session(description, folder / "config.json")
    try:
        config = read_model(description.get("model", {}))
    except ConfigError as error:
        raise BundleError(f"{folder / 'config.json'}: model: {error}") from error
    gate = _checked_gate(description, session, folder / "config.json", config.encoder.dim)
    wanted = FRONTENDS[config.encoder.features].DESCRIPTION
    if description.get("features") != wanted:
        raise BundleError(
            f"{folder / 'config.json'}: made with features {description.get('features')}; this program makes {wanted}"
        )
    try:
        vocoder = load_vocoder(folder / "vocoder") if (folder / "vocoder").is_dir() else None
        model = build(lambda: model_of(config), folder / "model.safetensors")
    except ConfigError as error:
        raise BundleError(str(error)) from error
    mean, std = read_gcmvn(folder / "gcmvn.json")
    card = _read_json(folder / "card.json") if (folder / "card.json").is_file() else {}
    source, target = Dictionary.read(folder / "source.dict.txt"), Dictionary.read(folder / "target.dict.txt")
    bundle = Bundle(model, config, source, target, mean, std, vocoder, card, session).to(device)
    subwords = {name: _checked_subwords(folder / f"{name}.spm.model") for name in ("source", "target")}
    bundle.target_spm = subwords["target"]
    bundle.punctuator_folder = folder / PUNCTUATOR if (folder / PUNCTUATOR).is_dir() else None
    bundle.gate = gate
    return bundle


def bundle_recordings(folder) -> list[Path]:
    """The recordings that a bundle brings along, by name; none where it has none."""
    return sorted((Path(folder) / "samples").glob("*.wav"))


def statistics(config: ModelConfig | SpeechLLMModelConfig, gcmvn) -> tuple[np.ndarray, np.ndarray]:
    """mean and std of the features, from a file as `read_gcmvn` takes it; 0 and 1 where they come normalised."""
    if FRONTENDS[config.encoder.features].NORMALISED:
        return np.zeros(config.encoder.input_dim, np.float32), np.ones(config.encoder.input_dim, np.float32)
    return read_gcmvn(gcmvn)


def _checked_session(description: dict, path: Path) -> dict:
    """The bundle's session options by name, after a look at what else config.json says of its audio."""
    rate = description.get("sample_rate", SAMPLE_RATE)
    if type(rate) is not int or rate != SAMPLE_RATE:
        raise BundleError(
            f"{path}: sample_rate {rate!r}: features are made at {SAMPLE_RATE} Hz, recordings may have any"
        )
    session = description.get("session", {})
    if not isinstance(session, dict):
        raise BundleError(f"{path}: session: expected a mapping of options, got {session!r}")
    try:
        named_options(session)
    except ConfigError as error:
        raise BundleError(f"{path}: session: {error}") from error
    return session


def _checked_gate(description: dict, session: dict, path: Path, dim: int) -> GateModel | None:
    """The bundle's gate, None where it has none. dim: of the encoder's frames."""
    try:
        gate = GateModel.from_dict(description["gate"]) if "gate" in description else None
    except ConfigError as error:
        raise BundleError(f"{path}: {error}") from error
    if gate is not None and gate.language and len(gate.language) != dim + 1:
        wrong = f"gate: language has {len(gate.language)} numbers, for an encoder of {dim} it takes {dim + 1}"
        raise BundleError(f"{path}: {wrong}; calibrate again with scripts/calibrate_gate.py")
    if session.get("gate") and gate is None:
        missing = f"session: gate {session['gate']}, but there is no gate; scripts/calibrate_gate.py makes it"
        raise BundleError(f"{path}: {missing}")
    return gate


def _checked_subwords(path: Path) -> Path | None:
    """A SentencePiece model of the bundle, None where there is none."""
    if not path.is_file():
        return None
    import sentencepiece  # here, for bundles without one

    try:
        sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(path.read_bytes())
    except (OSError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path}: not a readable SentencePiece model ({error})") from error
    return path


def read_gcmvn(path) -> tuple[np.ndarray, np.ndarray]:
    """mean and std, [80] float32 each, from an npz or json file."""
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path}: no such file; it holds mean and std of the features (global CMVN)")
    try:
        values = json.loads(path.read_text()) if path.suffix == ".json" else dict(np.load(path, allow_pickle=False))
        mean, std = (_numbers(values[name]) for name in ("mean", "std"))
    except (ValueError, KeyError, TypeError, OSError, EOFError, RecursionError, BadZipFile) as error:
        raise BundleError(f"{path}: expected arrays 'mean' and 'std' ({error!r})") from error
    if mean.ndim != 1 or mean.shape != std.shape:
        raise BundleError(f"{path}: mean {list(mean.shape)} and std {list(std.shape)} must be vectors of one length")
    return mean, std


def _numbers(values) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"not real numbers but {array.dtype}")
    with np.errstate(over="ignore"):  # infinite ones are told later
        return array.astype(np.float32)


def _half_precision(model: S2STModel | SpeechLLMModel, config: ModelConfig | SpeechLLMModelConfig) -> dict:
    """The parameters to store: half precision where the range allows, tied ones once."""
    wanted, given = model_of(config).state_dict(), model.state_dict()
    missing = sorted(set(wanted) - set(given))
    if missing:
        raise BundleError(f"the model lacks parameters of its config: {some(missing)}")
    stored, seen = {}, {}
    for name in wanted:
        tensor = given[name].detach().cpu()
        if seen.setdefault(_storage(tensor), name) != name:
            continue
        if tensor.is_floating_point():
            half = tensor.half()
            tensor = half if torch.isfinite(half).all() else tensor.float()
        stored[name] = tensor.contiguous().clone()
    return stored


def _in_eight_bits(stored: dict, model: S2STModel, parts: Sequence[str]) -> dict:
    """The parameters with the weights of the parts in 8 bits; vectors, and what is small, stay as they are."""
    unknown = [part for part in parts if not any(name.startswith(part + ".") for name in stored)]
    if unknown:
        raise BundleError(f"the model has no part {unknown[0]} to store in 8 bits; its parts: {_parts(stored)}")
    given = model.state_dict()
    for name in list(stored):
        large = stored[name].dim() > 1 and stored[name].is_floating_point() and stored[name][0].numel() >= 16
        if large and name.startswith(tuple(part + "." for part in parts)):
            stored[name], stored[name + ROW_SCALES] = to_int8_rows(given[name].cpu())
    return stored


def _parts(stored: dict) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in stored))


def _storage(tensor: torch.Tensor):
    """Equal for tied parameters; an empty tensor is tied to none."""
    return (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else id(tensor)


def _copy_side(folder: Path, side: str, dictionary, spm):
    """A language's dictionary, and its SentencePiece model where there is one."""
    _copy(Path(dictionary), folder / f"{side}.dict.txt")
    if spm is not None:
        _copy(Path(spm), folder / f"{side}.spm.model")


def _copy(source: Path, target: Path):
    if not source.is_file():
        raise BundleError(f"{source}: no such file (for {target.name} of the bundle)")
    if source.resolve() != target.resolve():
        shutil.copyfile(source, target)


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise BundleError(f"{path}: no such file; is this a bundle folder?")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise BundleError(f"{path}: not a json file ({error})") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected a json object")
    return value
