"""What is not Spanish speech: every kind is there, dev and test share nothing, the same every time."""

import numpy as np
import pytest

from tests.quickstart import sources  # noqa: F401

pytest.importorskip("espeakng_loader")

import not_spanish  # noqa: E402

KINDS = {"human", "speech", "noise", "babble", "tones", "music", "silence"}


def items(split, engines=("espeak", "pico")):
    return not_spanish.items(split, engines, [("fr_hello", "fr")])


def test_every_kind_is_in_both_splits():
    for split in not_spanish.SPLITS:
        found = items(split)
        assert {item.kind for item in found} == KINDS
        assert len({item.id for item in found}) == len(found) > 90
        assert not any(item.what.startswith("es") for item in found)


def test_dev_and_test_speak_other_sentences():
    spoken = [{item.text for item in items(split) if item.text} for split in not_spanish.SPLITS]
    assert not spoken[0] & spoken[1] and len(spoken[0]) == len(spoken[1]) == 16


def test_only_engines_in_use_speak():
    engines = {item.speaker.engine for item in items("test", ("espeak", "kokoro")) if item.speaker}
    assert engines == {"espeak"}


@pytest.mark.parametrize("what", ["tones", "music", "silence", "babble", "hum", "espeak_de_0"])
def test_rendering_is_repeatable_and_loud_enough(what):
    item = next(item for item in items("test") if what in item.id)
    babble = [np.sin(np.arange(9000) / 9).astype(np.float32)]
    wave = not_spanish.render(item, 1, babble)
    np.testing.assert_array_equal(wave, not_spanish.render(item, 1, babble))
    assert 1.0 <= wave.size / 16000 < 9 and wave.dtype == np.float32
    assert (np.abs(wave).max() > 0.02) == (item.kind != "silence")
