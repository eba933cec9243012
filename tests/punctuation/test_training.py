"""Texts become labels, errors move them as a recogniser would, and a small model learns."""

import json

import numpy as np
import pytest
import torch

from echostream_plugin.config import ConfigError
from echostream_plugin.data.punctuated import labelled, with_errors
from echostream_plugin.punctuation import (
    CASES,
    MARKS,
    PunctuationStream,
    Punctuator,
    PunctuatorConfig,
    load_punctuator,
    save_punctuator,
)
from echostream_plugin.punctuation.training import LONGEST_LINE, UNKNOWN, Recipe, Training, Windows, lines_of

SMALL = PunctuatorConfig(buckets=307, dim=32, layers=2, heads=2, ffn_dim=48, left_words=8, right_words=6, kernel=3)


def names(text):
    return [(w, MARKS[m], CASES[c]) for w, m, c in zip(text.words, text.marks, text.cases, strict=True)]


def test_labels_of_a_line():
    assert names(labelled(["¿Dónde está, señor? «Me llamo Ana»; NATO it's"])) == [
        ("dónde", "", "lower"), ("está", ",", "lower"), ("señor", "?", "lower"), ("me", "", "lower"),
        ("llamo", "", "lower"), ("ana", ",", "capital"), ("nato", "", "upper"), ("its", ".", "lower"),
    ]  # fmt: skip


def test_the_strongest_of_several_marks_counts_and_verses_stay_open():
    assert names(labelled(["Come,... now?!"], complete=False)) == [("come", ".", "lower"), ("now", "?", "lower")]
    text = labelled(["In the beginning", "God made: light."], complete=False)
    assert "".join(MARKS[m] or "_" for m in text.marks) == "____,."
    assert text.ends.tolist() == [False, False, True, False, False, True]
    assert labelled(["«», ...", ""]).words == []
    assert names(labelled(["ماء، اعطيني؟"])) == [("ماء", ",", "lower"), ("اعطيني", "?", "lower")]


def test_errors_come_at_their_rate_and_keep_marks():
    text = labelled([f"one{n} two{n}, three{n} four{n}." for n in range(800)])
    rng = np.random.default_rng(0)
    noisy = with_errors(text, 0.15, rng)
    kept = sum(word in set(text.words) for word in noisy.words)
    assert len(text) * 0.93 < len(noisy) < len(text) * 1.07 and kept < len(noisy)
    assert len(noisy.words) == len(noisy.marks) == len(noisy.cases) == len(noisy.ends)
    assert (noisy.marks == 2).sum() > 0.97 * (text.marks == 2).sum()  # periods of words left out move to the one before
    assert with_errors(text, 0.0, rng) is text


def windows(recipe, lines=None):
    lines = lines or [f"{a} {b} is here, yes." for a in ("tom", "ann") for b in ("now", "then")]
    asked = [f"where is {a}?" for a in ("tom", "ann", "it")]
    return Windows({"en": [(labelled(lines + asked), False)]}, ("en",), recipe, with_errors)


def test_labels_whose_delay_was_cut_off_are_not_learnt():
    recipe = Recipe(window=6, most_sentences=3, mid_share=0.0, clean_share=1.0)
    found = windows(recipe).batch(np.random.default_rng(1), 40, 4, SMALL.buckets)
    rows, _, lengths, marks, _ = found
    seen = set()
    for length, mark in zip(lengths.tolist(), marks, strict=True):
        known = int((mark != UNKNOWN).sum())
        assert known in (length, max(0, length - 4)) and (mark[known:] == UNKNOWN).all()
        seen.add(known == length)
    assert seen == {True, False} and rows[0].any()


def test_a_small_model_learns_marks_and_training_is_deterministic(tmp_path):
    recipe = Recipe(steps=150, batch=16, warmup=10, rate=5e-3, clean_share=1.0, most_sentences=3, mid_share=0.1)
    models = []
    for run in ("one", "two"):
        torch.manual_seed(3)
        config = PunctuatorConfig(**{**SMALL.__dict__, "languages": ("en",)})
        training = Training(Punctuator(config), windows(recipe), recipe)
        training.run(tmp_path / run / "training.pt", save_every=100)
        models.append(training.model.eval())
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    stream = PunctuationStream(models[0].requires_grad_(False), "en", 2)
    said = stream.push("tom now is here yes where is it ann then is here yes".split()) + stream.finish()
    assert " ".join(word.text for word in said) == "Tom now is here, yes. Where is it? Ann then is here, yes."


def test_a_saved_model_is_the_same_but_for_half_precision(tmp_path):
    model = Punctuator(SMALL).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    save_punctuator(model, tmp_path / "p", {"command": "x"})
    loaded = load_punctuator(tmp_path / "p")
    assert loaded.config == SMALL and not any(p.requires_grad for p in loaded.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize(
    "damage, why",
    [
        (lambda folder: (folder / "punctuator.json").unlink(), "punctuator.json: no such file"),
        (lambda folder: (folder / "punctuator.safetensors").unlink(), "punctuator.safetensors: no such file"),
        (lambda folder: (folder / "punctuator.safetensors").write_bytes(b"x" * 40), "safetensors: not the weights"),
        (lambda folder: (folder / "punctuator.json").write_text("{}"), "no punctuator's configuration"),
        (lambda folder: (folder / "punctuator.json").write_text("[1"), "no punctuator's configuration"),
        (lambda folder: change(folder, dim=64), "safetensors: not the weights"),
        (lambda folder: change(folder, heads="2"), "heads must be a whole number"),
        (lambda folder: change(folder, colour=2), "unknown option colour"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(tmp_path, damage, why):
    save_punctuator(Punctuator(SMALL), tmp_path)
    damage(tmp_path)
    with pytest.raises(ConfigError, match=why):
        load_punctuator(tmp_path)


def change(folder, **values):
    description = json.loads((folder / "punctuator.json").read_text())
    description["config"] |= values
    (folder / "punctuator.json").write_text(json.dumps(description))


@pytest.mark.parametrize("stop", [1, 7, 12])
def test_training_that_was_interrupted_gives_the_same_weights(tmp_path, stop):
    recipe = Recipe(steps=12, batch=4, warmup=4, rate=5e-3, most_sentences=3)
    config = PunctuatorConfig(**{**SMALL.__dict__, "languages": ("en",)})
    torch.manual_seed(3)
    whole = Training(Punctuator(config), windows(recipe), recipe)
    for done in range(recipe.steps):
        if done == stop - 1:
            whole.update()
            whole.save(tmp_path / "training.pt")
        else:
            whole.update()
    torch.manual_seed(99)
    resumed = Training(Punctuator(config), windows(recipe), recipe)
    resumed.resume(tmp_path / "training.pt")
    assert resumed.done == stop
    while resumed.done < recipe.steps:
        resumed.update()
    assert resumed.loss == whole.loss
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_checkpoint_of_another_recipe_or_none_is_refused(tmp_path):
    recipe, config = Recipe(steps=2, batch=2), PunctuatorConfig(**{**SMALL.__dict__, "languages": ("en",)})
    Training(Punctuator(config), windows(recipe), recipe).save(tmp_path / "training.pt")
    other = windows(recipe, ["another text, that is longer than the first."])
    training = Training(Punctuator(config), other, recipe)
    with pytest.raises(ConfigError, match="another recipe, network or texts; delete it"):
        training.resume(tmp_path / "training.pt")
    torch.save({"made_by": training.made_by, "done": 1, "loss": 0.5}, tmp_path / "training.pt")
    with pytest.raises(ConfigError, match="not a checkpoint of this training"):
        training.resume(tmp_path / "training.pt")
    (tmp_path / "training.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match="not a checkpoint of this training"):
        training.resume(tmp_path / "training.pt")


def test_a_text_without_words_beside_another_and_a_word_that_stands_alone_are_drawn(tmp_path):
    empty, alone = labelled([]), labelled(["Sí."])
    recipe = Recipe(window=6, clean_share=0.0, most_errors=1.0, most_sentences=1)
    for order in (False, True):
        found = Windows({"es": [(empty, order), (alone, order)]}, ("es",), recipe, with_errors)
        rng = np.random.default_rng(0)
        assert all(found.batch(rng, 1, 0, SMALL.buckets)[0].size(0) == 1 for _ in range(200))


def test_a_line_that_is_no_sentence_is_drawn_in_pieces_that_end_with_sentences():
    short = labelled(["one two. three four?", "five"], complete=False)
    assert [places.tolist() for places in lines_of(short)] == [[0, 4], [4, 5]]
    text = labelled(["one two three. " * 300, "so " * 600, "yes. no."], complete=False)
    starts, ends = lines_of(text)
    assert starts[0] == 0 and ends[-1] == len(text) and (starts[1:] == ends[:-1]).all()
    assert (ends - starts).max() <= LONGEST_LINE and {900, 1500, 1502} <= set(ends.tolist())
    assert all(text.marks[end - 1] == MARKS.index(".") for end in ends if end < 900)
    recipe = Recipe(clean_share=0.0)
    found, rng = Windows({"en": [(text, False)]}, ("en",), recipe, with_errors), np.random.default_rng(0)
    noisy, drawn = found.noise, []
    found.noise = lambda window, *more: drawn.append(len(window)) or noisy(window, *more)
    for _ in range(50):
        found.draw(rng)
    assert max(drawn) <= recipe.most_sentences * LONGEST_LINE
