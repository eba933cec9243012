"""Text in chunks for `fairseq-generate`, which prints and scores the hypotheses; `A-` and `S-` lines are of the CTC
heads, as those of the speech-to-speech generator."""

import torch
from torch import Tensor, nn

from echostream_plugin.constants import EOS
from echostream_plugin.fairseq_ext.generator import ctc_texts
from echostream_plugin.inference.chunk_writer import ChunkWriter
from echostream_plugin.inference.work import alone


class ChunkGenerator(nn.Module):
    """The generator that `fairseq-generate` calls; one model (no ensembles)."""

    def __init__(self, models, dictionaries: dict, beam: int = 1):
        """dictionaries: fairseq's, by task; beam: hypotheses inside a chunk."""
        super().__init__()
        if len(models) != 1:
            raise ValueError(f"ensembles are not supported: give one --path, not {len(models)}")
        self.model, self.dictionaries, self.beam = models[0], dictionaries, beam
        self.symbols_to_strip_from_output = {EOS}  # asked for by fairseq-generate

    @torch.no_grad()
    def generate(self, models, sample, prefix_tokens=None, constraints=None, **keywords):
        """One hypothesis per utterance, in fairseq's format."""
        net_input, model = sample["net_input"], self.model
        encoder, lengths = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
        heads = {"A": "source_unigram", "S": "ctc_target_unigram"}
        texts = {
            line: ctc_texts(getattr(model, f"{name}_decoder")(encoder, lengths), lengths, self.dictionaries[name])
            for line, name in heads.items()
        }
        for i, number in enumerate(sample["id"].tolist()):
            for line, found in texts.items():
                print(f"{line}-{number}\t{found[i]}", flush=True)
        return [[self.hypothesis(encoder[i : i + 1, :count])] for i, count in enumerate(lengths.tolist())]

    def hypothesis(self, frames: Tensor) -> dict:
        """frames: [1, S, C] of an utterance. Its score is not computed: 0."""
        writer = ChunkWriter(self.model, self.beam)
        writer.hear(frames)
        alone(writer.finish())
        # fairseq's scorer, which is C, reads before the start of a hypothesis without symbols
        tokens = torch.tensor(writer.tokens or [EOS], device=frames.device)
        scores = frames.new_zeros(len(tokens))
        return {
            "tokens": tokens,
            "score": scores.sum(),
            "positional_scores": scores,
            "attention": None,
            "alignment": None,
        }
