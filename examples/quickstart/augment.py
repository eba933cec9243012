"""Augmentation of speech: every function takes and returns float32 [n] at 16 kHz, and draws from the generator it gets.

`augment` draws a whole chain (speaker, room, noise, line) and tells what it drew; the single links serve the test
variants too. Nothing depends on anything but the wave, the generator and the babble given.
"""

import functools
import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, fftconvolve, lfilter, sosfilt
from waves import SAMPLE_RATE, encoded, silence, to_peak

SOUND_SPEED = 343.0  # m/s
NOISES = ("white", "pink", "brown", "hum", "clicks", "babble")
LINES = ("mulaw", "alaw", "gsm", "amr", "g722")  # what a telephone may do to speech
VARIANTS = ("noise20", "noise10", "noise5", "telephone")  # of the test set

# ------------------------------------------------------------------------------------------------------------ speaker


def change_speed(wave, factor):
    """`factor` times as fast; pitch and formants move along."""
    return soxr.resample(wave, SAMPLE_RATE * factor, SAMPLE_RATE).astype(np.float32)


def warp_vocal_tract(wave, factor):
    """Moves the spectral envelope up by `factor`; pitch and duration stay.

    The envelope of a 32 ms frame is its cepstrum's first 1.5 ms (shorter than any pitch period).
    """
    size, hop, kept = 512, 128, 24
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    padded = np.pad(wave, (size, size + -wave.size % hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectrum = np.fft.rfft(frames)
    cepstrum = np.fft.irfft(np.log(np.abs(spectrum) + 1e-5))
    cepstrum[:, kept : size - kept + 1] = 0.0
    envelope = np.fft.rfft(cepstrum).real
    place = np.minimum(np.arange(size // 2 + 1) / factor, size // 2)
    below = np.minimum(place.astype(int), size // 2 - 1)
    moved = envelope[:, below] + (place - below) * (envelope[:, below + 1] - envelope[:, below])
    frames = np.fft.irfft(spectrum * np.exp(np.clip(moved - envelope, -4.0, 4.0))) * window
    out = np.zeros(padded.size)
    for part in range(size // hop):  # frames a window apart do not overlap
        block = frames[part :: size // hop].reshape(-1)
        out[part * hop : part * hop + block.size] += block
    return (out[size : size + wave.size] / 1.5).astype(np.float32)  # what four squared Hann windows add up to


def add_silence(wave, before_s, inside_s, after_s):
    """Silence at both ends, and at the quietest place of the middle half."""
    if inside_s > 0 and wave.size > SAMPLE_RATE:
        hop = SAMPLE_RATE // 50
        energy = np.square(wave[: wave.size // hop * hop].reshape(-1, hop)).sum(1)
        first = len(energy) // 4
        cut = (first + int(energy[first : 3 * len(energy) // 4].argmin())) * hop + hop // 2
        wave = np.concatenate([wave[:cut], silence(inside_s), wave[cut:]])
    return np.concatenate([silence(before_s), wave, silence(after_s)])


# --------------------------------------------------------------------------------------------------------------- room


def room_response(rng):
    """(impulse response [n], its reverberation time in s) of a drawn shoebox room with a speaker and a microphone.

    Early reflections by the image method (Allen and Berkley 1979), the rest as noise of the same decay.
    """
    size = rng.uniform((2.5, 2.2, 2.3), (9.0, 7.0, 3.6))
    speaker, microphone = rng.uniform(0.1, 0.9, (2, 3)) * size
    decay_s = float(rng.uniform(0.12, 0.7))  # to -60 dB
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    reflection = np.sqrt(np.exp(-0.161 * size.prod() / (surface * decay_s)))  # Eyring
    order = np.arange(-4, 5)
    sides = np.stack(np.meshgrid(order, order, order, indexing="ij"), -1).reshape(-1, 3)
    images = np.where(sides % 2 == 0, sides * size + speaker, (sides + 1) * size - speaker)
    distance = np.maximum(0.2, np.linalg.norm(images - microphone, axis=1))
    delay = distance / SOUND_SPEED * SAMPLE_RATE
    gain = reflection ** np.abs(sides).sum(1) / distance
    response = np.zeros(int(decay_s * SAMPLE_RATE) + 1)
    index = np.rint(delay - delay.min()).astype(int)
    inside = index < response.size
    np.add.at(response, index[inside], gain[inside])
    mixing = int(0.05 * SAMPLE_RATE)  # from here on reflections are too many to count
    if response.size > mixing:
        time = np.arange(response.size - mixing) / SAMPLE_RATE
        tail = rng.standard_normal(time.size) * 10 ** (-3 * time / decay_s)
        level = np.sqrt(np.square(response[mixing // 2 : mixing]).mean())
        response[mixing:] = level * 10 ** (-3 * 0.05 / decay_s / 2) * tail
    return (response / response[index.min()]).astype(np.float32), decay_s


def reverberate(wave, response):
    """As long as the wave; as loud as before."""
    wet = fftconvolve(wave, response)[: wave.size].astype(np.float32)
    return wet * np.float32(rms(wave) / max(1e-9, rms(wet)))


# -------------------------------------------------------------------------------------------------------------- noise


def rms(wave):
    """Root mean square of a wave [n], 0 of none."""
    return float(np.sqrt(np.square(wave, dtype=np.float64).mean())) if wave.size else 0.0


def speech_level(wave):
    """RMS of the 20 ms frames within 30 dB of the loudest: pauses do not count."""
    hop = SAMPLE_RATE // 50
    power = np.square(wave[: wave.size // hop * hop], dtype=np.float64).reshape(-1, hop).mean(1)
    return float(np.sqrt(power[power > 1e-3 * power.max()].mean())) if power.size and power.max() > 0 else 0.0


def make_noise(kind, samples, rng, babble=()):
    """float32 [samples] of some level. kind: one of NOISES; babble: waves of speech to mix for that kind."""
    if kind == "babble" and len(babble):
        return _babble(samples, rng, babble)
    if kind == "hum":
        time = np.arange(samples) / SAMPLE_RATE
        mains = rng.choice((50.0, 60.0)) * np.arange(1, 12)
        strength = rng.uniform(0.1, 1.0, mains.size) / np.arange(1, 12)
        waves = np.sin(2 * np.pi * mains[:, None] * time + rng.uniform(0, 2 * np.pi, (mains.size, 1)))
        return (strength @ waves + 0.02 * rng.standard_normal(samples)).astype(np.float32)
    if kind == "clicks":
        impulses = np.zeros(samples)
        at = rng.integers(0, samples, max(1, int(samples / SAMPLE_RATE * rng.uniform(1, 8))))
        impulses[at] = rng.standard_normal(at.size)
        radius, angle = rng.uniform(0.9, 0.99), rng.uniform(0.05, 0.8) * np.pi
        return lfilter([1.0], [1.0, -2 * radius * np.cos(angle), radius**2], impulses).astype(np.float32)
    slope = {"white": 0.0, "pink": 0.5, "brown": 1.0}.get(kind, 0.5)  # of the amplitude; babble of nobody is pink
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.arange(spectrum.size), max(1.0, 40 * samples / SAMPLE_RATE))
    return np.fft.irfft(spectrum / frequency**slope, samples).astype(np.float32)


def _babble(samples, rng, babble):
    """Three to seven voices at once, each repeated from a drawn place on."""
    mixed = np.zeros(samples, np.float32)
    for _ in range(int(rng.integers(3, 8))):
        voice = babble[int(rng.integers(len(babble)))]
        voice = np.roll(np.resize(voice, max(samples, voice.size)), int(rng.integers(voice.size)))[:samples]
        mixed += voice * np.float32(rng.uniform(0.4, 1.0) / max(1e-6, rms(voice)))
    return mixed


def add_noise(wave, noise, snr_db):
    """The speech's level (pauses left out) over the noise's is `snr_db`; never louder than full scale."""
    loudness = speech_level(wave)
    mixed = wave + noise * np.float32(loudness * 10 ** (-snr_db / 20) / max(1e-9, rms(noise)))
    return to_peak(mixed, 0.99) if np.abs(mixed).max(initial=0.0) > 0.99 else mixed


# ---------------------------------------------------------------------------------------------------------- telephone


@functools.lru_cache(maxsize=1)
def _telephone_band():
    return butter(4, (300.0, 3400.0), "band", fs=8000, output="sos")


def telephone(wave, codec="mulaw"):
    """300 to 3400 Hz through a codec of LINES; g722 is wide band and leaves the band alone."""
    if codec == "g722":
        return _through_pyav(wave, "g722", SAMPLE_RATE, wave.size)
    narrow = sosfilt(_telephone_band(), soxr.resample(wave, SAMPLE_RATE, 8000)).astype(np.float32)
    if codec == "amr":
        narrow = _through_pyav(narrow, "libopencore_amrnb", 8000, narrow.size)
    else:
        subtype = {"mulaw": "ULAW", "alaw": "ALAW", "gsm": "GSM610"}[codec]
        narrow, _ = soundfile.read(io.BytesIO(encoded(narrow, subtype, rate=8000)), dtype="float32")
    return _as_long(soxr.resample(narrow, 8000, SAMPLE_RATE).astype(np.float32), wave.size)


def _as_long(wave, samples):
    return np.pad(wave[:samples], (0, max(0, samples - wave.size)))


def _through_pyav(wave, codec, rate, samples):
    """Encoded and decoded by PyAV, the codec's delay not undone."""
    import av

    encoder = av.CodecContext.create(codec, "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "s16"
    if codec != "g722":
        encoder.bit_rate = 12200
    decoder = av.CodecContext.create("amrnb" if codec != "g722" else codec, "r")
    decoder.sample_rate, decoder.layout = rate, "mono"
    encoder.open()
    step = encoder.frame_size or 320
    pcm = np.pad(np.clip(wave * 32768, -32768, 32767).astype(np.int16), (0, -wave.size % step))
    packets = []
    for start in range(0, pcm.size, step):
        frame = av.AudioFrame.from_ndarray(pcm[None, start : start + step], format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame.to_ndarray() for packet in packets for frame in decoder.decode(packet)]
    floats = [piece.ravel() if piece.dtype.kind == "f" else piece.ravel() / 32768.0 for piece in decoded]
    return _as_long(np.concatenate(floats).astype(np.float32), samples)


# -------------------------------------------------------------------------------------------------------------- chain


@dataclass(frozen=True)
class Chain:
    """How likely each link is. For synthesized speech, whose speakers are drawn already; HUMAN varies the speaker."""

    speed: float = 0.2
    warp: float = 0.25
    silence: float = 0.5  # of each place
    room: float = 0.5
    noise: float = 0.65
    line: float = 0.3
    clipping: float = 0.08
    floor: float = 0.5
    snr_db: tuple[float, float] = (0.0, 30.0)


SYNTHETIC = Chain()
HUMAN = Chain(speed=0.8, warp=0.7, silence=0.4, room=0.4, noise=0.5, line=0.3)


def augment(wave, rng, babble=(), chain=SYNTHETIC):
    """(the wave after a drawn chain, what was drawn as text); order as in the world: speaker, room, noise, line."""
    told = []

    def drawn(probability):
        return rng.random() < probability

    if drawn(chain.speed):
        factor = float(rng.uniform(0.9, 1.1))
        wave = change_speed(wave, factor)
        told.append(f"speed {factor:.2f}")
    if drawn(chain.warp):
        factor = float(rng.uniform(0.86, 1.16))
        wave = warp_vocal_tract(wave, factor)
        told.append(f"warp {factor:.2f}")
    pauses = [float(rng.uniform(0.1, 2.0)) if drawn(chain.silence * part) else 0.0 for part in (1.0, 0.4, 1.0)]
    if any(pauses):
        wave = add_silence(wave, *pauses)
        told.append("silence " + "/".join(f"{seconds:.1f}" for seconds in pauses))
    if drawn(chain.room):
        response, decay_s = room_response(rng)
        wave = reverberate(wave, response)
        told.append(f"room {decay_s:.2f}")
    if drawn(chain.noise):
        kind = str(rng.choice(NOISES))
        snr_db = float(rng.uniform(*chain.snr_db))
        wave = add_noise(wave, make_noise(kind, wave.size, rng, babble), snr_db)
        told.append(f"{kind} {snr_db:.0f} dB")
    wave, line = _record(wave, rng, chain, drawn)
    return wave, "; ".join(told + line)


def _record(wave, rng, chain, drawn):
    """Level, overdriven microphone, line and noise floor: (wave, what was drawn)."""
    told = []
    wave = to_peak(wave, 10 ** rng.uniform(-1.3, -0.02))
    if drawn(chain.clipping):
        ceiling = float(np.abs(wave).max() * rng.uniform(0.25, 0.8))
        wave = np.clip(wave, -ceiling, ceiling)
        told.append("clipped")
    if drawn(chain.line):
        codec = str(rng.choice(LINES))
        wave = telephone(wave, codec)
        told.append(codec)
    if drawn(chain.floor):
        level_db = float(rng.uniform(-80, -50))
        wave = wave + np.float32(10 ** (level_db / 20)) * rng.standard_normal(wave.size).astype(np.float32)
        told.append(f"floor {level_db:.0f} dB")
    return np.clip(wave, -1.0, 1.0).astype(np.float32), told


def variant(name, wave, rng, babble=()):
    """One of VARIANTS of a test sentence: noise (pink or babble by turns of the draw) or the telephone's band."""
    if name == "telephone":
        return telephone(wave, "mulaw")
    kind = ("pink", "babble")[int(rng.integers(2))]
    return add_noise(wave, make_noise(kind, wave.size, rng, babble), float(name.removeprefix("noise")))
