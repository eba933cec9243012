"""What the quickstart's tests share: the recipe's folder on the path, and a miniature of the recorded prompts."""

import gzip
import io
import sys
import tarfile
from pathlib import Path

import numpy as np

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))  # the recipe's files are scripts, run by path

SPANISH = """; Core Asterisk Sounds in Spanish

beep: [tono simple]
conf-kicked: Ha sido expulsado por el sistema de esta conferencia.
conf-locked: La conferencia ha sido bloqueada.
conf-lockednow: La conferencia ha sido bloqueada!
vm-next: Marque 6 para escuchar el proximo mensaje.
vm-undeleted: Mensaje recuperado.
"""
ENGLISH = """beep: [this is a simple beep tone]
conf-kicked: You have been kicked from this conference
conf-locked: This conference is locked!
conf-lockednow: The conference is now locked
vm-next: Press 6 to play the next message.
vm-undeleted: Message undeleted.
"""


def g722(seconds, seed=0):
    """Raw G.722 of noise that comes and goes like speech."""
    import av

    samples = int(seconds * 16000)
    envelope = np.abs(np.sin(np.arange(samples) / 2000.0)) + 0.2
    pcm = (3000 * envelope * np.random.default_rng(seed).standard_normal(samples)).astype(np.int16)
    encoder = av.CodecContext.create("g722", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 16000, "mono", "s16"
    encoder.open()
    frame = av.AudioFrame.from_ndarray(pcm[None, : samples // 320 * 320], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def prompt_files():
    """{path in the package: bytes} of all packages: five prompts, two recordings of another language."""
    sounds = "./usr/share/asterisk/sounds"
    lengths = {"conf-kicked": 3.0, "conf-locked": 2.0, "conf-lockednow": 2.0, "vm-next": 2.5, "vm-undeleted": 1.0}
    files = {f"{sounds}/es_MX_f_Allison/{name}.g722": g722(s, seed) for seed, (name, s) in enumerate(lengths.items())}
    files[f"{sounds}/es_MX_f_Allison/beep.g722"] = g722(1.0)
    files |= {f"{sounds}/fr_CA_f_June/digits/{n}.g722": g722(2.5, 10 + n) for n in range(24)}
    for language, text in (("es", SPANISH), ("en", ENGLISH)):
        folder = f"./usr/share/doc/asterisk-core-sounds-{language}"
        files[f"{folder}/core-sounds-{language}.txt.gz"] = gzip.compress(text.encode(), mtime=0)
    return files


def deb(files):
    """The bytes of a Debian package with these files: ar members of even length, the data as tar.xz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": packed.getvalue()}
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out
