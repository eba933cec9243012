"""Offline translation for `fairseq-generate`: CTC texts, beam search in the MT decoder, greedy units.

Prints the lines of StreamSpeech's generator: `A-<id>` what the ASR head heard, `S-<id>` what the ST head translated,
`D-<id>` the MT decoder's translation; the hypotheses that are returned are unit sequences.
"""

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from echostream_plugin.constants import EOS, PAD, UNK
from echostream_plugin.decoders.ctc import greedy_collapse, greedy_collapse_batch
from echostream_plugin.inference.dictionary import Dictionary
from echostream_plugin.model import S2STModel, WaitKLags, padding_mask


class TwoPassGenerator(nn.Module):
    """The generator that `fairseq-generate` calls; one model (no ensembles)."""

    def __init__(
        self,
        models,
        source_dictionary,
        target_dictionary,
        beam_size: int = 1,
        max_len_a: float = 0.0,
        max_len_b: int = 200,
        length_penalty: float = 1.0,
        lags: WaitKLags | None = None,
    ):
        super().__init__()
        if len(models) != 1:
            raise ValueError(f"ensembles are not supported: give one --path, not {len(models)}")
        self.model: S2STModel = models[0]  # fairseq has put it in evaluation mode
        self.lags = lags or WaitKLags()
        self.symbols_to_strip_from_output = {EOS}  # asked for by fairseq-generate
        self.source_dictionary = source_dictionary
        self.target_dictionary = target_dictionary
        self.search = SequenceGenerator(
            [_FirstPass(self.model)],
            target_dictionary,
            beam_size=beam_size,
            max_len_a=max_len_a,
            max_len_b=max_len_b,
            len_penalty=length_penalty,
        )

    @torch.no_grad()
    def generate(self, models, sample, prefix_tokens=None, constraints=None, **keywords):
        """One unit hypothesis per utterance, in fairseq's format; prints the A-, S- and D- lines."""
        model = self.model
        net_input = sample["net_input"]
        encoder, lengths = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
        read = torch.full_like(lengths, encoder.size(1)) if model.counts_padding else lengths
        asr = ctc_texts(model.source_unigram_decoder(encoder, lengths), read, self.source_dictionary)
        st = ctc_texts(model.ctc_target_unigram_decoder(encoder, lengths), read, self.target_dictionary)
        beams = self.search.generate(
            [model], {"net_input": {"src_tokens": encoder, "src_lengths": lengths}}, prefix_tokens=prefix_tokens
        )
        best = [beam[0]["tokens"] for beam in beams]
        for i, tokens in enumerate(best):
            number = int(sample["id"][i])
            print(f"A-{number}\t{asr[i]}")
            print(f"S-{number}\t{st[i]}")
            print(f"D-{number}\t{text_of(tokens, self.target_dictionary)}", flush=True)
        return [[_hypothesis(units, scores)] for units, scores in self._units(encoder, lengths, best)]

    def _units(self, encoder: Tensor, lengths: Tensor, texts: list[Tensor]):
        """Greedy units of the second pass over the chosen translations (each ending in `</s>`), and their log
        probabilities; `</s>` alone where there are none."""
        model = self.model
        inputs = [torch.cat([tokens.new_tensor([EOS]), tokens[tokens.ne(EOS)]]) for tokens in texts]
        prev_tokens = nn.utils.rnn.pad_sequence(inputs, batch_first=True, padding_value=PAD)
        hidden = model.target_unigram_decoder(prev_tokens, encoder, padding_mask(lengths, encoder.size(1)), None)
        logits, unit_lengths = model.units(hidden, prev_tokens.eq(PAD), self.lags)
        blank = logits.size(-1) - 1
        scores = logits.float().log_softmax(-1).amax(-1)
        for row, row_scores, length in zip(logits, scores, unit_lengths.tolist(), strict=True):
            tokens, frames = greedy_collapse(row[:length], blank=blank, forbidden=(PAD, UNK, EOS))
            if not tokens:  # fairseq's scorer, which is C, reads before the start of a hypothesis without symbols
                yield row.new_tensor([EOS], dtype=torch.long), row_scores.new_zeros(1)
                continue
            yield row.new_tensor(tokens, dtype=torch.long), row_scores[frames]


class _FirstPass(nn.Module):
    """The MT decoder as fairseq's `SequenceGenerator` wants to see a model; the encoder output is given."""

    def __init__(self, model: S2STModel):
        super().__init__()
        self.decoder = _MTDecoder(model.target_unigram_decoder)
        self.encoder = _GivenEncoder()

    def max_decoder_positions(self):
        return 1024

    @staticmethod
    def get_normalized_probs(net_output, log_probs, sample):
        logits = net_output[0].float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)


class _GivenEncoder(nn.Module):
    def forward_torchscript(self, net_input):
        return net_input["src_tokens"], net_input["src_lengths"]

    def reorder_encoder_out(self, encoder_out, new_order):
        return tuple(tensor.index_select(0, new_order) for tensor in encoder_out)


class _MTDecoder(nn.Module):
    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens, encoder_out):
        encoder, lengths = encoder_out
        hidden = self.decoder(tokens, encoder, padding_mask(lengths, encoder.size(1)), None)
        return self.decoder.logits(hidden[:, -1:]), None


def ctc_texts(logits: Tensor, lengths: Tensor, dictionary) -> list[str]:
    """Greedy CTC texts of [B, S, V] logits."""
    return [text_of(tokens, dictionary) for tokens, _ in greedy_collapse_batch(logits, lengths)]


def text_of(tokens, dictionary) -> str:
    """Text of token indices under a fairseq dictionary: subwords joined, special symbols left out."""
    return Dictionary(dictionary.symbols).text(int(token) for token in tokens)


def _hypothesis(units: Tensor, scores: Tensor) -> dict:
    return {
        "tokens": units,
        "score": scores.sum(),
        "positional_scores": scores,
        "attention": None,
        "alignment": None,
    }
