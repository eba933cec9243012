"""Source synthesizers: repeatable whatever was said before, each optional, speakers drawn from the utterance alone."""

from dataclasses import replace

import numpy as np
import pytest

from tests.quickstart import sources  # noqa: F401

pytest.importorskip("espeakng_loader")

import engines  # noqa: E402
import speakers  # noqa: E402
from engines import ENGINES, Speaker  # noqa: E402

NAMES = tuple(ENGINES)


def needs(name):
    if not ENGINES[name].installed():
        pytest.skip(f"{name} is not installed (pip install {ENGINES[name].package})")


@pytest.mark.parametrize(
    "speaker",
    [
        Speaker("espeak", engines.HELD_OUT_VOICE, 1.06, 0.9), Speaker("espeak", "es+f4"),
        Speaker("espeak", "es+klatt3"), Speaker("pico", "es-ES"),
        ENGINES["pico"].held_out, Speaker("kokoro", "jf_alpha*0.4+jm_kumo", 1.3),
    ],
    ids=lambda speaker: f"{speaker.engine} {speaker.voice}",
)  # fmt: skip
def test_an_engine_repeats_itself_whatever_was_said_before(speaker):
    needs(speaker.engine)
    first = engines.speak("Buenos días.", speaker)
    engines.speak("Una habitación, por favor.", replace(ENGINES[speaker.engine].held_out, rate=1.2))
    np.testing.assert_array_equal(first, engines.speak("Buenos días.", speaker))
    assert first.dtype == np.float32 and np.abs(first).max() == pytest.approx(speaker.level, abs=1e-4)
    assert 0.6 * 16000 < first.size < 3 * 16000


@pytest.mark.parametrize("voice", engines.TRAINING_VOICES)
def test_no_training_voice_of_espeak_has_noise_seeded_by_the_clock(voice, monkeypatch):
    """espeak seeds breath noise with time(): a voice with it would differ from one second to the next."""
    import ctypes

    libc = ctypes.CDLL(None)
    first = engines.speak("Sí.", Speaker("espeak", voice))
    libc.srand(12345)
    np.testing.assert_array_equal(first, engines.speak("Sí.", Speaker("espeak", voice)))


@pytest.mark.parametrize("name", ["espeak", "pico"])
def test_warp_moves_the_spectrum_and_not_the_rate(name):
    needs(name)
    plain = Speaker(name, ENGINES[name].voices[0])
    low, high = (engines.speak("El tren sale mañana.", replace(plain, warp=warp)) for warp in (0.88, 1.14))
    assert high.size == pytest.approx(low.size, rel=0.12)

    octaves = np.arange(0, 5, 0.01)  # above 150 Hz

    def spectrum(wave):
        power = np.abs(np.fft.rfft(wave, 65536)) ** 2
        smooth = [np.log(power[int(hz * 4.096 * 0.95) : int(hz * 4.096 * 1.05)].mean()) for hz in 150 * 2**octaves]
        return np.array(smooth) - np.mean(smooth)

    one, other = spectrum(low), spectrum(high)
    likeness = [np.corrcoef(one[: 400 - shift], other[shift:400])[0, 1] for shift in range(80)]
    assert np.argmax(likeness) / 100 == pytest.approx(np.log2(1.14 / 0.88), abs=0.08)


@pytest.mark.parametrize("name", NAMES)
def test_text_without_words_and_unknown_voices_are_refused(name):
    needs(name)
    with pytest.raises(ValueError, match="at least one word"):
        engines.speak("   ", Speaker(name, ENGINES[name].voices[0]))
    with pytest.raises(ValueError, match="no voice 'es[+]nobody'|no voice 'nobody'"):
        engines.speak("hola", Speaker(name, "es+nobody" if name == "espeak" else "nobody"))


def test_a_missing_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "pico", replace(ENGINES["pico"], module="no_such_module"))
    with pytest.raises(RuntimeError, match="pip install py-nanotts"):
        engines.speak("hola", Speaker("pico", "es-ES"))
    used, notes = speakers.engines_in_use()
    assert "pico" not in used and any("py-nanotts" in note for note in notes)
    with pytest.raises(ValueError, match="--engines pico: not installed"):
        speakers.engines_in_use(["pico"])


def test_engines_can_be_chosen_and_left_out():
    assert speakers.engines_in_use(["espeak"])[0] == ("espeak",)
    assert "espeak" not in speakers.engines_in_use(without=["espeak"])[0]
    with pytest.raises(ValueError, match="no 'festival'; there are espeak, pico, kokoro"):
        speakers.engines_in_use(without=["festival"])
    with pytest.raises(ValueError, match="no speech synthesizer is left"):
        speakers.engines_in_use(without=NAMES)


def drawn(split, count, used=NAMES):
    return [speakers.draw_speaker(split, n, f"{split}_{n:05d}", 1, used) for n in range(count)]


def test_held_out_speakers_are_never_in_training():
    for speaker, heard in drawn("train", 2000):
        engine = ENGINES[speaker.engine]
        assert heard == speakers.HEARD
        if speaker.engine == "pico":  # one voice; its held-out setting is outside the ranges of training
            assert not engine.pitch[0] <= engine.held_out.pitch <= engine.pitch[1]
            assert not engine.warp[0] <= engine.held_out.warp <= engine.warp[1]
            assert engine.pitch[0] <= speaker.pitch <= engine.pitch[1]
        else:
            assert engine.held_out.voice not in speaker.voice


def test_half_of_the_test_utterances_have_held_out_speakers_of_every_engine():
    test = drawn("test", 60)
    held_out = [speaker for speaker, heard in test if heard == speakers.HELD_OUT]
    assert len(held_out) == 30 and {speaker.engine for speaker in held_out} == set(NAMES)
    assert {speaker.voice for speaker in held_out} == {ENGINES[name].held_out.voice for name in NAMES}


def test_engines_share_the_training_utterances():
    train = [speaker for speaker, _ in drawn("train", 2000)]
    for name in NAMES:
        share = sum(speaker.engine == name for speaker in train) / len(train)
        assert share == pytest.approx(ENGINES[name].share, abs=0.03)
    assert len({speaker.voice for speaker in train if speaker.engine == "espeak"}) == len(engines.TRAINING_VOICES)
    assert len({speaker.voice for speaker in train if speaker.engine == "kokoro"}) > 50


def test_another_seed_draws_other_speakers():
    one, other = (
        [speakers.draw_speaker("train", n, f"train_{n}", seed, NAMES)[0] for n in range(50)] for seed in (1, 2)
    )
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 5
    assert len({speaker.level for speaker in one}) > 45


@pytest.mark.parametrize("left_out", NAMES)
def test_leaving_an_engine_out_changes_no_other_engines_utterance(left_out):
    with_all, without = drawn("train", 300), drawn("train", 300, tuple(name for name in NAMES if name != left_out))
    assert all(one == other for one, other in zip(with_all, without, strict=True) if one[0].engine != left_out)
    assert not any(speaker.engine == left_out for speaker, _ in without)


def test_a_table_row_gives_the_speaker_back():
    speaker = drawn("train", 1)[0][0]
    row = {name: str(value) for name, value in vars(speaker).items()}
    assert speakers.speaker_of(row) == speaker
