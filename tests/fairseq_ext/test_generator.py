"""Offline generation: the best of the beam, each line under its own id, nothing of a batch's padding."""

from argparse import Namespace

import pytest
import torch

from echostream_plugin.fairseq_ext.generator import TwoPassGenerator
from echostream_plugin.model import WaitKLags, padding_mask
from tests.fairseq_ext.miniature import load_task


@pytest.fixture(scope="module")
def ready(corpus):
    """A model that says different things, its task and data."""
    task, dataset = load_task(corpus)
    torch.manual_seed(2)
    model = task.build_model(task.args).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name:
                parameter.mul_(3.0)
        units = model.decoder.embed_tokens.weight
        units[4:14].mul_(4.0)  # many units, each for a few frames
        units[3] = 1.2 * units[5]  # <unk> instead of one of them
    return task, model, dataset


def generator_of(task, model, beam=1):
    parts = task.multitask_tasks
    dictionaries = (parts["source_unigram"].target_dictionary, parts["target_unigram"].target_dictionary)
    return TwoPassGenerator([model], *dictionaries, beam_size=beam, max_len_b=12)


def run(ready, rows, capsys, beam=1):
    """{id: (A, S, D)} as printed, {id: hypothesis}."""
    task, model, dataset = ready
    sample = dataset.collater([dataset[row] for row in rows])
    capsys.readouterr()
    hypotheses = generator_of(task, model, beam).generate([model], sample)
    lines = {}
    for line in capsys.readouterr().out.splitlines():
        kind, _, rest = line.partition("-")
        number, _, text = rest.partition("\t")
        lines.setdefault(int(number), {})[kind] = text
    return lines, dict(zip(sample["id"].tolist(), (found[0] for found in hypotheses), strict=True))


@pytest.mark.parametrize("beam", [1, 3])
def test_an_utterance_in_a_batch_is_the_utterance_alone(ready, capsys, beam):
    rows = (0, 1, 2, 5)
    lines, units = run(ready, rows, capsys, beam)
    assert set(lines) == set(rows) and all(set(said) == set("ASD") for said in lines.values())
    for row in rows:
        alone, alone_units = run(ready, (row,), capsys, beam)
        assert lines[row] == alone[row]
        assert units[row]["tokens"].tolist() == alone_units[row]["tokens"].tolist()
        assert torch.allclose(units[row]["positional_scores"], alone_units[row]["positional_scores"], atol=1e-4)
    assert len({tuple(found["tokens"].tolist()) for found in units.values()}) > 1


def test_the_best_hypothesis_of_the_beam_is_taken(ready, capsys):
    task, model, dataset = ready
    sample = dataset.collater([dataset[row] for row in range(6)])
    generator, beams = generator_of(task, model, 4), []
    search = generator.search.generate
    generator.search.generate = lambda *a, **k: beams.append(search(*a, **k)) or beams[-1]
    generator.generate([model], sample)
    said = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("D-")]
    symbols = task.multitask_tasks["target_unigram"].target_dictionary.symbols
    for text, beam in zip(said, beams[0], strict=True):
        best = max(beam, key=lambda hypothesis: float(hypothesis["score"]))
        pieces = [symbols[token] for token in best["tokens"].tolist() if token > 3]
        assert text == "".join(pieces).replace("▁", " ").strip()
    assert any(not torch.equal(beam[0]["tokens"], beam[-1]["tokens"]) for beam in beams[0])


def test_units_are_the_likeliest_symbols_and_scored_so(ready, capsys):
    """Of the frames at which they begin; specials are never units, and the score is the sum."""
    task, model, dataset = ready
    _, units = run(ready, (0, 4), capsys)
    for hypothesis in units.values():
        tokens, scores = hypothesis["tokens"], hypothesis["positional_scores"]
        assert len(tokens) == len(scores) and not set(tokens.tolist()) & {1, 3, 14}
        assert torch.allclose(hypothesis["score"], scores.sum()) and (scores <= 0).all()


def test_the_second_pass_reads_the_whole_translation(ready, capsys):
    """Units of a translation are those of the model, teacher-forced on it from </s> on."""
    task, model, dataset = ready
    sample = dataset.collater([dataset[1]])
    generator = generator_of(task, model)
    encoder, lengths = model.encoder(sample["net_input"]["src_tokens"], sample["net_input"]["src_lengths"])
    text = torch.tensor([4, 6, 5, 2])
    shapes, units = [], model.units
    model.units = lambda hidden, padding, lags: shapes.append(padding.shape) or units(hidden, padding, lags)
    try:
        ((tokens, scores),) = generator._units(encoder, lengths, [text])
    finally:
        del model.units
    assert shapes == [(1, 4)]  # </s> and three tokens
    previous = torch.tensor([[2, 4, 6, 5]])
    hidden = model.target_unigram_decoder(previous, encoder, padding_mask(lengths, encoder.size(1)), None)
    logits = model.units(hidden, previous.eq(1), generator.lags)[0][0]
    likeliest = logits.log_softmax(-1).amax(-1)
    logits[:, [1, 2, 3]] = -torch.inf
    best, wanted, frames = logits.argmax(-1).tolist(), [], []
    for frame, symbol in enumerate(best):
        if symbol != 14 and (frame == 0 or symbol != best[frame - 1]):
            wanted.append(symbol)
            frames.append(frame)
    assert tokens.tolist() == wanted and len(set(wanted)) > 2
    assert logits.size(0) == 4 * model.config.unit.upsample
    assert torch.allclose(scores, likeliest[frames], atol=1e-5)


def test_the_flags_of_the_first_pass_reach_the_search(ready):
    task, model, _ = ready
    flags = Namespace(beam_mt=4, max_len_a_mt=1.5, max_len_b_mt=7, lenpen=0.5)
    generator = task.build_generator([model], flags)
    search = generator.search
    assert (search.beam_size, search.max_len_a, search.max_len_b, search.len_penalty) == (4, 1.5, 7, 0.5)
    assert generator.lags == WaitKLags(0, 1, 0, 1)  # as the model is trained by default
    assert generator.source_dictionary is task.multitask_tasks["source_unigram"].target_dictionary
    assert generator.target_dictionary is task.multitask_tasks["target_unigram"].target_dictionary


def test_two_models_are_no_ensemble(ready):
    task, model, _ = ready
    with pytest.raises(ValueError, match="ensembles are not supported"):
        TwoPassGenerator([model, model], None, None)
