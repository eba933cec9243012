"""A finished sentence once more, from all of its source at once: offline encoder, beam search, marks and case."""

from dataclasses import dataclass

import numpy as np
import torch

from echostream_plugin.constants import EOS, PAD, SPECIALS, UNK
from echostream_plugin.decoders.beam import beam_search
from echostream_plugin.decoders.ctc import greedy_collapse
from echostream_plugin.inference.bundle import Bundle
from echostream_plugin.inference.guards import without_repeats
from echostream_plugin.inference.marking import marked, with_opening_marks
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.stages import Listener
from echostream_plugin.model import WaitKLags
from echostream_plugin.vocoder import StreamingVocoder

BEAM = 5


@dataclass(frozen=True, eq=False)
class Revised:
    """Both texts of a sentence, marked where the bundle has a punctuator, and its speech [n], empty where not asked."""

    source_text: str
    target_text: str
    samples: np.ndarray


def revise(
    bundle: Bundle,
    options: SessionOptions,
    features: np.ndarray,
    source_text: str,
    target_text: str,
    translate: bool = True,
):
    """A generator of calls that returns `Revised`.

    features: [t, bins], the sentence's; source_text, target_text: as they were said, which stay where nothing is heard
    now; translate: else the target text stays too. Leaves the session's states alone."""
    frames, tokens = yield from _hear(bundle, options, features)
    source_text = bundle.source_dictionary.text(tokens) or source_text
    samples = np.zeros(0, dtype=np.float32)
    if translate and frames.size(1) and (tokens or target_text):
        written = beam_search(bundle.model.target_unigram_decoder, frames, BEAM, options.max_tokens)
        written = without_repeats(written, options.max_repeats)
        target_text = bundle.target_dictionary.text(written) or target_text
        if options.resynthesize:
            samples = _speech(bundle, frames, written)
    return Revised(_marked(bundle, "source", source_text), _marked(bundle, "target", target_text), samples)


def _hear(bundle: Bundle, options: SessionOptions, features: np.ndarray):
    """Encoder frames [1, S, C] and CTC tokens of the source, as of a recording of its own."""
    listener = Listener(bundle.model, 0)
    pieces = yield from listener.hear(features)
    pieces = [*pieces, (yield from listener.rest())]
    for piece in pieces:
        yield from listener.take_in(piece)
    return torch.cat(pieces, dim=1), without_repeats(listener.asr.tokens, options.max_repeats)


def _speech(bundle: Bundle, frames: torch.Tensor, tokens: list) -> np.ndarray:
    """The whole translation, spoken at once."""
    model, inputs = bundle.model, torch.tensor([[EOS, *tokens]], device=frames.device)
    hidden = model.target_unigram_decoder(inputs, frames)
    logits, _ = model.units(hidden, inputs.eq(PAD), WaitKLags(text=False, n2=None))
    found = greedy_collapse(logits[0], blank=-1, forbidden=(PAD, UNK))[0]
    units = [unit - len(SPECIALS) for unit in found if 0 <= unit - len(SPECIALS) < bundle.units]
    stream = StreamingVocoder(bundle.vocoder)
    samples, state = stream.push(units, stream.initial_state())
    return torch.cat([samples, stream.finish(state)]).cpu().numpy()


def _marked(bundle: Bundle, side: str, text: str) -> str:
    if bundle.punctuator_folder is None or not text:
        return text
    text = marked(bundle.punctuator.stream(side, None), text)
    return with_opening_marks(text, bundle.punctuator.languages[side])
