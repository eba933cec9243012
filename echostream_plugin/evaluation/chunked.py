"""Word error rates of models that write text in chunks (SpeechLLM-XL), beside their CTC head's, on recordings that
grow: how many may be joined before the text suffers (arXiv 2410.03752, tables I, II and IV)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.evaluation.intervals import CorpusWer, bootstrap
from echostream_plugin.evaluation.table import markdown_table
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.chunk_writer import ChunkWriter
from echostream_plugin.inference.work import alone


@dataclass(frozen=True, eq=False)
class Utterance:
    """features: [T, bins] normalised, of 10 ms; text: what is said, or its translation."""

    features: np.ndarray
    text: str


def joined(utterances: list[Utterance], times: int) -> list[Utterance]:
    """Each of `times` utterances in a row as one; those that are left over are left out."""
    groups = [utterances[i : i + times] for i in range(0, len(utterances) - times + 1, times)]
    return [Utterance(np.concatenate([u.features for u in g]), " ".join(u.text for u in g)) for g in groups]


@torch.inference_mode()
def texts_of(bundle: Bundle, features: np.ndarray, beam: int = 1) -> dict:
    """What the decoder writes (`text`) and its CTC head finds (`ctc`) of features [T, bins]; `capped`: chunks whose
    text was cut."""
    model, transcribes = bundle.model, bundle.config.transcribes
    given = torch.from_numpy(np.ascontiguousarray(features)).to(bundle.device)[None]
    frames, _ = model.encoder(given, torch.tensor([len(features)], device=bundle.device))
    head = model.source_unigram_decoder if transcribes else model.ctc_target_unigram_decoder
    dictionary = bundle.source_dictionary if transcribes else bundle.target_dictionary
    writer = ChunkWriter(model, beam)
    writer.hear(frames)
    alone(writer.finish())
    found, _ = greedy_collapse(head(frames)[0])
    return {"text": dictionary.text(writer.tokens), "ctc": dictionary.text(found), "capped": writer.capped}


def measure(
    bundle: Bundle, utterances: list[Utterance], lengths: Iterable[int], beam: int = 1, progress: str = ""
) -> dict:
    """Texts and references by the number of utterances that were joined, as plain values."""
    found = {}
    for times in lengths:
        recordings = joined(utterances, times)
        bar = tqdm(recordings, desc=f"{progress} x{times}", unit="recording", leave=False)
        texts = [texts_of(bundle, recording.features, beam) for recording in bar]
        found[str(times)] = {
            "references": [recording.text for recording in recordings],
            **{name: [text[name] for text in texts] for name in ("text", "ctc")},
            "capped": sum(text["capped"] for text in texts),
        }
    return found


def error_rate(found: dict, name: str = "text") -> str:
    """Word error rate in percent with its 95 % interval, of one of the texts that `measure` found at a length."""
    if not found["references"]:
        return "–"
    wer = CorpusWer(found[name], found["references"])
    return str(bootstrap(len(found["references"]), wer))


def length_table(results: dict[str, dict], lengths: Iterable[int], describe: Callable[[str], str]) -> str:
    """A markdown table: a row for each system of `results` (what `measure` gave) and one for the first's CTC head, a
    column for each length."""
    columns = {"system": "system"} | {str(times): f"x{times}" for times in lengths}
    rows = []
    for name, found in results.items():
        rates = {times: error_rate(found[times]) for times in columns if times in found}
        rows.append({"system": describe(name), **rates})
    first = next(iter(results.values()))
    rates = {times: error_rate(first[times], "ctc") for times in columns if times in first}
    rows.insert(1, {"system": "its CTC head, greedy", **rates})
    return markdown_table(rows, columns)
