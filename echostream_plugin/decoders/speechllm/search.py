"""The text of one chunk: what may be written, and beam search inside the chunk."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from echostream_plugin.constants import BLANK, EOS, PAD
from echostream_plugin.decoders.speechllm.decoder import SpeechLLMDecoder, SpeechLLMState

NEVER_WRITTEN = (BLANK, PAD)


@dataclass(frozen=True)
class Found:
    """The text of a chunk: tokens without the `</s>` that ends it; ended: the decoder wrote that itself, below the most
    tokens; state: after them, before `</s>`."""

    tokens: list = field(default_factory=list)
    ended: bool = True
    state: SpeechLLMState | None = None


def allowed(logits: Tensor) -> Tensor:
    """Logits [.., V] with what is never written at -inf."""
    return logits.index_fill(-1, torch.tensor(NEVER_WRITTEN, device=logits.device), -torch.inf)


@torch.inference_mode()
def search_chunk(
    decoder: SpeechLLMDecoder, logits: Tensor, state: SpeechLLMState, beam: int, most_tokens: int
) -> Found:
    """The most probable text of a chunk, P(y $ | what was heard and written before), among those that a beam finds.

    logits: [1, 1, V] and state of one stream, as `hear` gives them. Hypotheses of a step are equally long; those that
    end leave the beam. Only the best goes on into the next chunk, so memory does not grow and no text waits. (The
    paper's search goes through chunks too, and compares hypotheses of equal length that may stand in different ones;
    in a stream those ahead would wait for audio.)"""
    scores, texts, best = logits.new_zeros(1), [[]], None
    for length in range(most_tokens + 1):
        steps = allowed(logits[:, -1].float()).log_softmax(-1)
        ends = scores + steps[:, EOS]
        row = int(ends.argmax())
        if best is None or float(ends[row]) > best[0]:
            best = float(ends[row]), Found(texts[row], length < most_tokens, state.rows(torch.tensor([row])))
        steps[:, EOS] = -torch.inf
        scores, places = (scores[:, None] + steps).flatten().topk(min(beam, steps.numel()))
        if length == most_tokens or float(scores[0]) <= best[0]:  # no longer text can be more probable
            break
        rows, tokens = places // steps.size(1), places % steps.size(1)
        texts = [[*texts[row], token] for row, token in zip(rows.tolist(), tokens.tolist(), strict=True)]
        logits, state = decoder.write(tokens[:, None], state.rows(rows))
    return best[1]
