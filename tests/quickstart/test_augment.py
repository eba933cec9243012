"""Augmentation: repeatable from its generator, and each link does what it is called."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter

from tests.quickstart import sources  # noqa: F401

import augment as aug  # isort: skip

RATE = aug.SAMPLE_RATE


@pytest.fixture(scope="module")
def speech():
    """Two seconds like a vowel with pauses: pulses of 120 Hz through a resonance at 1500 Hz."""
    pulses = np.zeros(2 * RATE)
    pulses[:: RATE // 120] = 1.0
    angle = 2 * np.pi * 1500 / RATE
    voiced = lfilter([1.0], [1.0, -2 * 0.97 * np.cos(angle), 0.97**2], pulses)
    loudness = np.repeat([1.0, 0.0, 1.0, 1.0], RATE // 2)
    return (0.3 * voiced * loudness / np.abs(voiced).max()).astype(np.float32)


def rng(seed=1):
    return np.random.default_rng(seed)


def peak_hz(wave):
    """Where the spectrum, smoothed over the pulses' harmonics, is highest."""
    power = np.convolve(np.abs(np.fft.rfft(wave)) ** 2, np.ones(600), "same")
    return power.argmax() * RATE / wave.size


def test_a_chain_is_repeatable_and_chains_differ(speech):
    babble = [speech]
    chains = [aug.augment(speech, rng(seed), babble) for seed in range(30)]
    for seed, (wave, told) in enumerate(chains):
        again, told_again = aug.augment(speech, rng(seed), babble)
        np.testing.assert_array_equal(wave, again)
        assert told == told_again and wave.dtype == np.float32
        assert np.isfinite(wave).all() and 0 < np.abs(wave).max() <= 1
    assert len({told for _, told in chains}) > 25


def test_every_link_is_drawn(speech):
    told = " ".join(aug.augment(speech, rng(seed), [speech], aug.HUMAN)[1] for seed in range(150))
    for word in ("speed", "warp", "silence", "room", "clipped", "floor", *aug.NOISES, *aug.LINES):
        assert word in told, word


def test_an_empty_chain_changes_the_level_only(speech):
    quiet = aug.Chain(*[0.0] * 8)
    wave, told = aug.augment(speech, rng(), (), quiet)
    assert told == "" and np.corrcoef(wave, speech)[0, 1] > 0.99999


@pytest.mark.parametrize("link", ["speed", "warp", "silence", "room", "noise", "line", "clipping", "floor"])
def test_what_is_told_is_done(link, speech):
    """Each link alone changes more than the level."""
    chain = replace(aug.Chain(*[0.0] * 8), **{link: 1.0}, snr_db=(5.0, 10.0))
    wave, told = aug.augment(speech, rng(3), [speech], chain)
    assert told and ";" not in told
    assert wave.size != speech.size or np.corrcoef(wave, speech)[0, 1] < 0.9999


def test_levels_are_drawn(speech):
    quiet = aug.Chain(*[0.0] * 8)
    peaks = 20 * np.log10([np.abs(aug.augment(speech, rng(seed), (), quiet)[0]).max() for seed in range(60)])
    assert -26.1 < peaks.min() < -22 and -4 < peaks.max() < 0


def test_the_noise_floor_is_as_low_as_told(speech):
    chain = replace(aug.Chain(*[0.0] * 8), floor=1.0)
    for seed in range(5):
        wave, told = aug.augment(speech, rng(seed), (), chain)
        pause = wave[RATE // 2 + 2000 : RATE - 2000]
        assert 20 * np.log10(aug.rms(pause)) == pytest.approx(float(told.split()[1]), abs=1.5)


def test_speed_moves_length_and_formants(speech):
    fast = aug.change_speed(speech, 1.25)
    assert fast.size == pytest.approx(speech.size / 1.25, abs=2)
    assert peak_hz(fast) == pytest.approx(1.25 * peak_hz(speech), rel=0.03)


def test_vocal_tract_warp_moves_formants_and_nothing_else(speech):
    np.testing.assert_allclose(aug.warp_vocal_tract(speech, 1.0), speech, atol=1e-5)
    warped = aug.warp_vocal_tract(speech, 1.2)
    assert warped.size == speech.size
    assert peak_hz(warped) == pytest.approx(1.2 * peak_hz(speech), rel=0.06)
    lag = [np.dot(wave[: RATE // 2 - 134], wave[134 : RATE // 2]) / np.dot(wave, wave) for wave in (speech, warped)]
    before, after = ([np.dot(w[:7000], w[n : 7000 + n]) for n in range(100, 170)] for w in (speech, warped))
    assert abs(int(np.argmax(before)) - int(np.argmax(after))) <= 2, lag  # the pitch period


def test_silence_goes_before_into_the_pause_and_after(speech):
    wave = aug.add_silence(speech, 0.5, 1.0, 0.25)
    assert wave.size == speech.size + 1.75 * RATE
    assert not wave[: RATE // 2].any() and not wave[-RATE // 4 :].any()
    np.testing.assert_array_equal(wave[wave != 0], speech[speech != 0])
    inside = np.split(wave, np.flatnonzero(wave))[1:-1]
    assert max(map(len, inside)) >= 1.4 * RATE  # the pause of 0.5 s and what is added to it


def test_a_room_starts_with_the_direct_sound_and_decays():
    for seed in range(20):
        response, decay_s = aug.room_response(rng(seed))
        assert response[0] == pytest.approx(1.0) and response.size == int(decay_s * RATE) + 1
        quarter = response.size // 4
        assert aug.rms(response[:quarter]) > 3 * aug.rms(response[-quarter:])
        parts = [response[int(start * response.size) : int((start + 0.1) * response.size)] for start in (0.4, 0.8)]
        if decay_s > 0.2:  # past the first 50 ms: 60 dB in `decay_s`
            assert 20 * np.log10(aug.rms(parts[0]) / aug.rms(parts[1])) == pytest.approx(24, abs=2.5)


def test_reverberation_keeps_length_and_level(speech):
    wet = aug.reverberate(speech, aug.room_response(rng())[0])
    assert wet.size == speech.size and aug.rms(wet) == pytest.approx(aug.rms(speech), rel=1e-3)
    assert aug.rms(wet[RATE // 2 : RATE // 2 + RATE // 20]) > 0  # the pause is filled


@pytest.mark.parametrize("kind", aug.NOISES)
def test_noise_is_as_loud_as_asked(kind, speech):
    quiet = 0.05 * speech
    noise = aug.make_noise(kind, speech.size, rng(), [speech])
    added = aug.add_noise(quiet, noise, 10.0) - quiet
    assert 20 * np.log10(aug.speech_level(quiet) / aug.rms(added)) == pytest.approx(10.0, abs=0.1)
    assert aug.speech_level(quiet) > aug.rms(quiet)  # the pause does not count


def test_noise_never_clips(speech):
    assert np.abs(aug.add_noise(3 * speech, aug.make_noise("white", speech.size, rng()), 0.0)).max() <= 0.99001


@pytest.mark.parametrize("kind,slope", [("white", 0), ("pink", -3), ("brown", -6)])
def test_coloured_noise_falls_by_octave(kind, slope):
    power = np.abs(np.fft.rfft(aug.make_noise(kind, 10 * RATE, rng()))) ** 2
    octave = [10 * np.log10(power[10 * low : 20 * low].mean()) for low in (200, 400, 800, 1600)]
    assert np.mean(np.diff(octave)) == pytest.approx(slope, abs=0.6)


@pytest.mark.parametrize("codec", aug.LINES)
def test_a_line_keeps_length_and_voice(codec, speech):
    heard = aug.telephone(speech, codec)
    assert heard.size == speech.size and heard.dtype == np.float32
    match = np.correlate(heard, speech[4000:12000], "valid").max()
    assert match > 0.8 * np.square(speech[4000:12000]).sum() * aug.rms(heard) / aug.rms(speech)


def test_the_telephone_band_ends_at_3400_hz():
    white = aug.make_noise("white", 4 * RATE, rng()) * np.float32(0.1)
    power = np.abs(np.fft.rfft(aug.telephone(white, "mulaw"))) ** 2
    hertz = np.arange(power.size) / 4
    inside = power[(hertz > 500) & (hertz < 3000)].mean()
    assert power[hertz > 4100].mean() < 1e-3 * inside and power[hertz < 150].mean() < 1e-2 * inside
    wide = np.abs(np.fft.rfft(aug.telephone(white, "g722"))) ** 2
    assert wide[(hertz > 5000) & (hertz < 6500)].mean() > 0.3 * wide[(hertz > 500) & (hertz < 3000)].mean()


@pytest.mark.parametrize("name", aug.VARIANTS)
def test_variants_of_the_test_set(name, speech):
    wave = aug.variant(name, speech, rng(), [speech])
    assert wave.size == speech.size and not np.array_equal(wave, speech)
    np.testing.assert_array_equal(wave, aug.variant(name, speech, rng(), [speech]))


def test_variants_are_as_noisy_as_their_names_say_and_half_of_them_babble(speech):
    quiet = 0.1 * speech
    babbling = []
    for seed in range(12):
        added = {db: aug.variant(f"noise{db}", quiet, rng(seed), [speech]) - quiet for db in (5, 10, 20)}
        for db, noise in added.items():
            assert 20 * np.log10(aug.speech_level(quiet) / aug.rms(noise)) == pytest.approx(db, abs=0.2)
        other = aug.variant("noise5", quiet, rng(seed), [speech[::-1].copy()]) - quiet
        babbling.append(not np.array_equal(other, added[5]))
    assert 2 <= sum(babbling) <= 10
