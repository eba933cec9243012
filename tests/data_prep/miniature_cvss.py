"""A miniature of CoVoST 2 and CVSS-C: a few generated clips in the folders, formats and tables of the real ones."""

import numpy as np
import soundfile

from echostream_plugin.data.cvss import Corpus
from echostream_plugin.data.layout import SPLITS

ENGLISH = ["the train is late", "where is the hotel", "two coffees please"]
SOURCE = {
    "fr": ["Le train est en retard.", "Où est l'hôtel ?", "Deux cafés, s'il vous plaît !"],
    "es": ["El tren llega tarde.", "¿Dónde está el hotel?", "Dos cafés, por favor."],
    "de": ["Der Zug hat Verspätung.", "Wo ist das Hotel?", "Zwei Kaffee, bitte."],
}
CENTRES = np.array([[0.0, 0.0], [0.1, 0.1], [0.1, 0.3], [0.02, 0.05]], np.float32)


def build(root, language: str, whole: bool = True) -> Corpus:
    """covost2/LANG and cvss-c/LANG-en with three clips a split; not `whole`: a broken clip and a missing one too."""
    from tests.tiny_bundle import speechlike  # here, since torch comes with it and ToyFeatures need none

    covost, cvss = root / "covost2" / language, root / "cvss-c" / f"{language}-en"
    (covost / "clips").mkdir(parents=True)
    validated, table = ["client_id\tpath\tsentence\tup_votes"], ["path\ttranslation\tsplit\tclient_id"]
    for number, split in enumerate(SPLITS):
        (cvss / split).mkdir(parents=True)
        lines = []
        for clip in range(3):
            name = f"common_voice_{language}_{number}{clip}.mp3"
            soundfile.write(covost / "clips" / name, speechlike(0.8, 48000, seed=clip), 48000, format="MP3")
            soundfile.write(cvss / split / f"{name}.wav", speechlike(0.7, 24000, seed=9 + clip), 24000)
            validated.append(f"speaker\t{name}\t{SOURCE[language][clip]}\t2")
            covost_split = "train_covost" if clip == 2 and split == "train" else split
            table.append(f"{name}\t{ENGLISH[clip].title()}.\t{covost_split}\tx")
            lines.append(f"{name}\t{ENGLISH[clip]}")
        lines.reverse()  # CVSS has an order of its own
        (cvss / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    validated.append(f"speaker\tcommon_voice_{language}_99.mp3\tNot in CoVoST.\t2")
    if not whole:
        for broken, content in (("08", b"not audio"), ("09", None)):
            name = f"common_voice_{language}_{broken}.mp3"
            validated.append(f"speaker\t{name}\tCassé\t2")
            table.append(f"{name}\tBroken.\ttrain\tx")
            with open(cvss / "train.tsv", "a") as file:
                file.write(f"{name}\tbroken\n")
            soundfile.write(cvss / "train" / f"{name}.wav", speechlike(0.7, 24000), 24000)
            if content is not None:
                (covost / "clips" / name).write_bytes(content)
    (covost / "validated.tsv").write_text("\n".join(validated) + "\n", encoding="utf-8")
    (covost / f"covost_v2.{language}_en.tsv").write_text("\n".join(table) + "\n")
    return Corpus(covost, cvss, cvss, language)


class ToyFeatures:
    """[T, 2] of 20 ms frames, loudness and zero crossings: what stands for HuBERT."""

    def __call__(self, wave):
        frames = wave[: len(wave) // 320 * 320].reshape(-1, 320)
        crossings = (np.diff(np.sign(frames), axis=1) != 0).mean(axis=1)
        return np.stack([np.abs(frames).mean(axis=1), crossings], axis=1).astype(np.float32)
