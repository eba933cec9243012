"""The model card of a checkpoint or a bundle: what is in it, how large, the encoder's context, how it was trained."""

from pathlib import Path

from echostream_plugin.config import ConfigError
from echostream_plugin.encoders import ENCODERS
from echostream_plugin.fairseq_ext.checkpoints import checkpoint_config, training_updates
from echostream_plugin.fairseq_ext.flags import flags_of_config
from echostream_plugin.fairseq_ext.loading import read_checkpoint
from echostream_plugin.fairseq_ext.speechllm.model import architecture_name
from echostream_plugin.fairseq_ext.transfer import WARM_PARTS
from echostream_plugin.inference.arguments import words
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.model import model_of

PARTS = {"encoder": "encoder", **WARM_PARTS, "chunk_decoder": "chunk decoder"}
# options of a training that a reader asks for first
_TRAINING = (
    "k1", "n1", "k2", "n2", "multichunk", "multichunk_sizes", "label_smoothing", "dropout", "optimizer", "lr",
    "warmup_updates", "max_tokens", "update_freq", "fp16", "bf16", "autocast", "seed", "warm_started_from",
    "distill_from", "distill_weight", "distill_segment", "target", "ctc_weight", "ctc_only_updates", "alignment_delay",
    "data", "config_yaml", "multitask_config_yaml",
)  # fmt: skip


def model_card(path) -> dict:
    """Facts of a checkpoint file or a bundle folder, as plain values. Raises ConfigError or BundleError for others."""
    path = Path(path)
    if path.is_dir():
        bundle = load_bundle(path)
        facts = {**_card(bundle.model, bundle.config), "updates": None, "training": {}}
        facts["parameters"]["vocoder"] = sum(p.numel() for p in bundle.vocoder.parameters()) if bundle.vocoder else 0
        facts |= {"session": bundle.session, "notes": bundle.card}
    else:
        args, state = read_checkpoint(path)
        config = checkpoint_config(args, state, path)
        model = model_of(config)
        missing = [name for name in model.state_dict() if name not in state]
        if missing:
            raise ConfigError(f"{path}: lacks parameters of its options: {', '.join(missing[:3])}")
        # a bundle does not say how it was trained, so what is made of one has only defaults there
        told = ("made_from_bundle", "data") if getattr(args, "made_from_bundle", None) else _TRAINING
        training = {name: getattr(args, name) for name in told if getattr(args, name, None) not in (None, "")}
        facts = {**_card(model, config), "updates": training_updates(path), "training": training}
        facts["architecture"] = getattr(args, "arch", facts["architecture"])
    return {"name": path.name, "kind": "bundle" if path.is_dir() else "checkpoint", **facts}


def as_markdown(card: dict) -> str:
    """The card as a markdown page."""
    parameters, dictionaries = card["parameters"], card["dictionaries"]
    lines = [f"# {card['name']}", "", f"{card['kind']}, architecture `{card['architecture']}`"]
    if card["updates"]:
        lines[-1] += f", {card['updates']:,} updates"
    lines += [
        "",
        *_table(("part", "parameters"), ((name, f"{count:,}") for name, count in parameters.items() if count)),
    ]
    lines += [f"| all | {sum(parameters.values()):,} |", ""]
    hearing = ((name.replace("_", " "), "all" if ms is None else ms) for name, ms in card["encoder_ms"].items())
    lines += [*_table(("encoder context", "ms"), hearing), ""]
    lines += [*_table(("dictionary", "entries"), ((name, f"{size:,}") for name, size in dictionaries.items())), ""]
    if card["flags"]:
        lines += ["Model flags:", "", f"    {' '.join(words(card['flags']))}", ""]
    for title in ("training", "session", "notes"):
        if card.get(title):
            lines += [*_table((title, ""), card[title].items()), ""]
    return "\n".join(lines)


def _card(model, config) -> dict:
    encoder = ENCODERS[config.encoder.kind]
    counts = {title: 0 for title in PARTS.values()}
    for name, parameter in model.named_parameters():  # tied ones are named once
        counts[PARTS[name.split(".", 1)[0]]] += parameter.numel()
    try:
        flags = flags_of_config(config)
    except ConfigError:
        flags = {}  # a configuration that no command line gives
    architecture, dictionaries = next(iter(encoder.architectures)), {"source": config.asr.vocab}
    if config.in_chunks:
        architecture, dictionaries["target"] = architecture_name(architecture), config.st.vocab
    else:
        dictionaries |= {"target": config.mt.vocab, "units": config.unit.units}
    return {
        "architecture": architecture,
        "parameters": counts,
        "encoder_ms": encoder.context_ms(config.encoder),
        "dictionaries": dictionaries,
        "flags": flags,
    }


def _table(head: tuple, rows) -> list[str]:
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells]
