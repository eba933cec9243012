"""A person whom the model never hears, for tests only: Colombian prompts of another package, at 8 kHz.

They (Debian's asterisk-prompt-es-co, GPL 2) have the names of the prompts that the corpus is made of, and say the same
in other words, or nearly, so that the English texts of these are their translations. There are no transcripts, and
nothing is left out but what is short.
"""

import io
import re
import subprocess

import human_text
import soundfile
from human import files_in
from waves import SAMPLE_RATE, write_wav

from echostream_plugin.data.tables import write_lines
from echostream_plugin.inference.audio import at_rate
from echostream_plugin.inference.words import normalise

PACKAGE = "asterisk-prompt-es-co"
SHORTEST_S = 1.5
WORDS = 2  # of the translation at least
_SOUND = re.compile(r"sounds/es/(.+)\.gsm$")
_GSM_RATE = 8000


def download(folder):
    """The package by apt into `folder`; what went wrong, or None. It is not in every Debian."""
    if list(folder.glob(f"{PACKAGE}_*.deb")):
        return None
    done = subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]


def decode_gsm(content):
    """float32 [n] at 16 kHz of raw GSM 06.10."""
    raw = {"samplerate": _GSM_RATE, "channels": 1, "format": "RAW", "subtype": "GSM610"}
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", **raw)
    return at_rate(samples, rate, SAMPLE_RATE)


def prompts(folder, texts):
    """{name: (float32 [n] at 16 kHz, English text)} of the prompts in a folder of packages, or of what is in them, that
    have a translation; {} without the package. texts: English ones as written, by name."""
    found = {}
    for path, content in files_in(folder):
        match = _SOUND.search(path)
        if not match or match[1] not in texts:
            continue
        target = human_text.english(human_text.as_spoken(texts[match[1]], match[1], "en"))
        wave = decode_gsm(content)
        if target and len(target.split()) >= WORDS and wave.size >= SHORTEST_S * SAMPLE_RATE:
            found[match[1]] = wave, target
    return dict(sorted(found.items()))


def write_stranger(out, folder, texts):
    """src_wav/stranger_*.wav and simuleval/stranger/{wav_list,target}.txt; nothing without the package. Arguments as of
    `prompts`."""
    lists, found = out / "simuleval" / "stranger", prompts(folder, texts)
    if not found:
        return
    wavs = [out / "src_wav" / f"stranger_{re.sub(r'[^a-zA-Z0-9]+', '_', name)}.wav" for name in found]
    for wav, (wave, _) in zip(wavs, found.values(), strict=True):
        write_wav(wav, wave)
    write_lines(lists / "wav_list.txt", (str(wav.resolve()) for wav in wavs))
    write_lines(lists / "target.txt", (normalise(target) for _, target in found.values()))
