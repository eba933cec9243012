"""The criterion: its sum term by term, what it hands to the model, its error rates and what is logged of them."""

import math

import pytest
import torch
import torch.nn.functional as F
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics

import echostream_plugin.model as model_module
from echostream_plugin.config import ConfigError
from echostream_plugin.decoders.masks import build_streaming_mask
from echostream_plugin.fairseq_ext.criterion import TwoPassCTCCriterion
from echostream_plugin.model import ModelOutput, WaitKLags, padding_mask
from tests.fairseq_ext.miniature import load_task

ROWS = (0, 1, 2, 5)  # of two, three and four words


def prepare(corpus, *flags):
    task, dataset = load_task(corpus, *flags)
    torch.manual_seed(0)
    model = task.build_model(task.args).eval()  # without dropout, whatever the criterion does
    criterion = task.build_criterion(convert_namespace_to_omegaconf(task.args).criterion)
    return model, criterion, dataset.collater([dataset[row] for row in ROWS])


def inputs(sample):
    return (*(sample["net_input"][name] for name in ("src_tokens", "src_lengths")),
            sample["multitask"]["target_unigram"]["net_input"]["prev_output_tokens"])  # fmt: skip


def ctc(logits, lengths, targets, blank):
    """Sum of the utterances' CTC losses, one by one and without padding."""
    total = 0
    for row, length, target in zip(logits, lengths, targets, strict=True):
        target = target[target != 1]
        log_probs = row[:length].log_softmax(-1)[:, None]
        total += F.ctc_loss(log_probs, target[None], length[None], torch.tensor([len(target)]), blank, "sum")
    return total


def smoothed(logits, targets, epsilon=0.1):
    """Cross entropy with the mass epsilon spread over the other symbols, summed over what is not padding."""
    log_probs = logits.log_softmax(-1)[targets != 1]
    right = log_probs.gather(1, targets[targets != 1][:, None]).sum()
    share = epsilon / (logits.size(-1) - 1)
    return -(1 - epsilon - share) * right - share * log_probs.sum()


@pytest.mark.parametrize("k1, n1", [(0, 1), (1, 2)])
def test_the_loss_is_the_weighted_sum_of_its_parts(corpus, k1, n1):
    model, criterion, sample = prepare(corpus, "--k1", str(k1), "--n1", str(n1), "--k2", "1", "--n2", "2")
    output = model(*inputs(sample), lags=WaitKLags(k1, n1, 1, 2))
    targets = {name: task["target"] for name, task in sample["multitask"].items()}
    parts = {
        "unit": ctc(output.unit_logits, output.unit_lengths, sample["target"], 14),
        "source_unigram": ctc(output.asr_logits, output.lengths, targets["source_unigram"], 0),
        "ctc_target_unigram": ctc(output.st_logits, output.lengths, targets["ctc_target_unigram"], 0),
        "target_unigram": smoothed(output.mt_logits, targets["target_unigram"]),
    }
    loss, sample_size, logging = criterion(model, sample)
    wanted = parts["unit"] + 4 * parts["source_unigram"] + 4 * parts["ctc_target_unigram"] + 8 * parts["target_unigram"]
    assert torch.allclose(loss, wanted, rtol=1e-5)
    assert sample_size == sample["ntokens"] == int((sample["target"] != 1).sum()) == logging["ntokens"]
    assert torch.allclose(logging["loss"], wanted, rtol=1e-5)
    for name, value in parts.items():
        assert torch.allclose(logging[f"{name}_loss"], value, rtol=1e-5), name
    for name, target in targets.items():
        assert logging[f"{name}_ntokens"] == int((target != 1).sum())
    criterion.set_multitask_loss_weight("source_unigram", 0.5)
    assert torch.allclose(criterion(model, sample)[0], wanted - 3.5 * parts["source_unigram"], rtol=1e-5)
    criterion.sentence_avg = True
    assert criterion(model, sample)[1] == len(ROWS)


def seen_by_model(model, criterion, sample, times):
    """What the criterion hands to the model besides the batch: (segment, lags) of every call."""
    seen = []

    def spy(*arguments, lags, segment_frames):
        seen.append((segment_frames, lags))
        return model(*arguments, lags=lags, segment_frames=segment_frames)

    spy.encoder = model.encoder
    for _ in range(times):
        criterion(spy, sample)
    return seen


def test_drawn_segments_and_lags_reach_the_model_in_training_alone(corpus):
    flags = ("--multichunk", "--multichunk-sizes", "3,5", "--n2", "-1", "--k1", "2")
    model, criterion, sample = prepare(corpus, *flags)
    torch.manual_seed(0)
    trained = seen_by_model(model, criterion.train(), sample, 20)
    assert {segment for segment, _ in trained} == {3, 5}
    assert len({lags.n2 for _, lags in trained}) > 1 and {lags.k1 for _, lags in trained} == {2}
    validated = seen_by_model(model, criterion.eval(), sample, 20)
    assert set(validated) == {(None, WaitKLags(2, 1, 0, 1))}


def test_without_multichunk_nothing_is_drawn(corpus):
    model, criterion, sample = prepare(corpus)
    state = torch.get_rng_state()
    assert set(seen_by_model(model, criterion.train(), sample, 3)) == {(None, WaitKLags(0, 1, 0, 1))}
    assert torch.equal(state, torch.get_rng_state())


def test_the_wait_mask_is_that_of_the_drawn_segment(corpus, monkeypatch):
    """The MT decoder sees up to the end of a segment as it was drawn, not as it is configured."""
    model, _, sample = prepare(corpus, "--chunk-size", "8")
    features, lengths, tokens = inputs(sample)
    with torch.no_grad():
        for head in (model.source_unigram_decoder, model.ctc_target_unigram_decoder):
            head.proj.bias[0] -= 3  # the heads write at once, so that the segment is what counts
        output = model(features, lengths, tokens, segment_frames=3)
        logits = {}
        for chunk in (3, 8):
            heads = (output.asr_logits, output.st_logits, output.lengths)
            mask = build_streaming_mask(*heads, tokens.size(1), 0, 1, chunk)
            padding = padding_mask(output.lengths, output.encoder.size(1))
            hidden = model.target_unigram_decoder(tokens, output.encoder, padding, mask)
            logits[chunk] = model.target_unigram_decoder.logits(hidden)
    assert torch.allclose(output.mt_logits, logits[3], atol=1e-5)
    assert not torch.allclose(output.mt_logits, logits[8], atol=1e-3)
    chunks = []

    def spy(*arguments):
        chunks.append(arguments[-1])
        return build_streaming_mask(*arguments)

    monkeypatch.setattr(model_module, "build_streaming_mask", spy)
    for segment in (None, 0, 5):
        model(features, lengths, tokens, segment_frames=segment)
    assert chunks == [8, 0, 5]


def spelled(rows, size, blank, frames):
    """Logits [B, frames, size] whose greedy CTC outputs are the rows, followed by other symbols that do not count."""
    logits = torch.zeros(len(rows), frames, size)
    for number, row in enumerate(rows):
        symbols = [symbol for token in row for symbol in (token, blank)]
        symbols += [4, 5] * frames  # beyond the length
        logits[number, torch.arange(frames), torch.tensor(symbols[:frames])] = 5.0
    return logits, torch.tensor([2 * len(row) for row in rows])


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=1)


def test_error_rates_are_edit_distances_in_percent(corpus):
    """uno dos -> uno tres cuatro: 3 of 2 subwords (a piece more), 2 of 2 words; and so on, by hand."""
    _, criterion, _ = prepare(corpus)
    asr, lengths = spelled([[4, 6, 7, 8], [5]], 9, 0, 12)
    st, _ = spelled([[4, 5, 6, 7], [4]], 8, 0, 12)
    units, unit_lengths = spelled([[4, 5], [6, 7, 8]], 15, 14, 12)
    mt = torch.zeros(2, 3, 8)
    mt[0, torch.arange(3), torch.tensor([4, 5, 2])] = 1.0
    mt[1, torch.arange(3), torch.tensor([4, 4, 1])] = 1.0
    output = ModelOutput(torch.zeros(2, 12, 1), lengths, asr, st, mt, units, unit_lengths)
    targets = {
        "source_unigram": padded([[4, 5], [5]]),
        "ctc_target_unigram": padded([[4, 5, 6], [6]]),
        "target_unigram": padded([[4, 6, 2], [4, 2]]),
    }
    counts = criterion.errors(output, padded([[4, 5, 6, 2], [6, 7, 8, 2]]), targets)
    assert counts == {
        "asr_ter": 3, "asr_tokens": 3, "asr_wer": 2, "asr_words": 3,
        "st_ter": 2, "st_tokens": 4, "st_wer": 2, "st_words": 4,
        "uer": 1, "units": 6, "mt_correct": 3, "mt_tokens": 5,
    }  # fmt: skip


def reduced(*batches):
    """What fairseq shows after updates of such logging outputs."""
    with metrics.aggregate(new_root=True) as shown:
        for logs in batches:
            TwoPassCTCCriterion.reduce_metrics(logs)
    return shown.get_smoothed_values()


def test_rates_and_losses_are_logged_by_what_they_are_divided_by():
    one = {"loss": 80.0, "unit_loss": 8.0, "sample_size": 20, "ntokens": 4, "nsentences": 2, "source_unigram_loss": 6.0,
           "source_unigram_ntokens": 3, "asr_wer": 1, "asr_words": 4, "asr_ter": 3, "asr_tokens": 6, "st_wer": 2,
           "st_words": 5, "st_ter": 1, "st_tokens": 8, "uer": 3, "units": 4, "mt_correct": 1, "mt_tokens": 4,
           "unit_infeasible": 1, "asr_infeasible": 0, "st_infeasible": 2,
           "distill_loss": 5.0, "distill_frames": 10}  # fmt: skip
    other = {name: 3 * value for name, value in one.items()} | {"asr_wer": 11, "loss": 80.0, "distill_loss": 35.0}
    values = reduced([one, other])
    bits = 1 / math.log(2)
    wanted = {
        "loss": 160 / 80 * bits, "unit_loss": 2 * bits, "multitask_source_unigram_loss": 2 * bits,
        "asr_wer": 75, "asr_ter": 50, "st_wer": 40, "st_ter": 12.5, "uer": 75, "mt_accuracy": 25,
        "unit_infeasible": 50, "asr_infeasible": 0, "st_infeasible": 100, "distill_loss": 1,
    }  # fmt: skip
    assert values == pytest.approx(wanted, abs=6e-4)
    assert reduced([one], [other]) == pytest.approx(wanted, abs=6e-4)  # batches count by their size
    training = {name: one[name] for name in ("loss", "unit_loss", "sample_size", "ntokens", "nsentences")}
    assert "asr_wer" not in reduced([training]) and "mt_accuracy" not in reduced([training])


def test_error_rates_are_of_validation_and_no_loss_is_lost_there(corpus):
    model, criterion, sample = prepare(corpus)
    trained, validated = (criterion.train(mode)(model, sample)[2] for mode in (True, False))
    assert "asr_wer" not in trained and {"asr_wer", "st_ter", "uer", "mt_correct"} <= set(validated)
    assert validated["loss"] == pytest.approx(float(trained["loss"]), rel=1e-5)
    assert validated["units"] == sample["ntokens"] - len(ROWS)  # without </s>
    assert TwoPassCTCCriterion.logging_outputs_can_be_summed()


def test_gradients_reach_every_part(corpus):
    model, criterion, sample = prepare(corpus)
    criterion.train()(model, sample)[0].backward()
    for part in ("encoder", "source_unigram_decoder", "ctc_target_unigram_decoder", "target_unigram_decoder",
                 "synthesizer_encoder", "decoder"):  # fmt: skip
        gradients = [parameter.grad for parameter in getattr(model, part).parameters()]
        assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients), part


def test_the_teacher_sees_what_the_student_sees_unless_told_otherwise(corpus):
    model, criterion, sample = prepare(corpus, "--chunk-size", "8")
    seen = []
    criterion.teacher = lambda features, lengths, segment: seen.append(segment)
    for told, drawn in ((-1, 16), (-1, None), (-1, 0), (0, 16), (5, None)):
        criterion.distill_segment = told
        criterion.teach(model, sample["net_input"], drawn)
    assert seen == [16, 8, 0, 0, 5]


def test_word_dropout_hides_subwords_from_the_mt_decoder_in_training_alone(corpus, monkeypatch):
    model, criterion, sample = prepare(corpus, "--mt-word-dropout", "0.4")
    wanted = inputs(sample)[2]
    fed, forward = [], type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *args, **more: fed.append(args[3]) or forward(*args, **more))
    with torch.no_grad():
        for _ in range(40):
            criterion.train()(model, sample)
        criterion.eval()(model, sample)
    assert torch.equal(fed.pop(), wanted)
    hidden = torch.stack([row.ne(wanted) for row in fed])
    assert all((row[gone] == 3).all() for row, gone in zip(fed, hidden, strict=True))
    words = wanted.gt(3)
    assert not hidden[:, ~words].any() and abs(hidden[:, words].float().mean() - 0.4) < 0.06
    with pytest.raises(ConfigError, match="--mt-word-dropout 1.0: from 0 to below 1"):
        prepare(corpus, "--mt-word-dropout", "1")


def test_checkpointed_activations_reach_the_encoder_and_give_the_same_gradients(corpus):
    found = []
    for flags in ((), ("--checkpoint-activations",)):
        torch.manual_seed(0)
        model, criterion, sample = prepare(corpus, *flags)
        begun = []
        model.encoder.emformer.layers[0].register_forward_pre_hook(lambda *_, begun=begun: begun.append(1))
        torch.manual_seed(1)
        criterion.train()(model.train(), sample)[0].backward()
        assert len(begun) == 1 + bool(flags)  # computed again backward
        found.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_cannot_checkpoint_activations_is_refused(corpus):
    model, criterion, sample = prepare(corpus, "--checkpoint-activations")
    model.encoder = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="--checkpoint-activations: only the Emformer can"):
        criterion.train()(model, sample)
