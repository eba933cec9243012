"""Error rates of resynthesised speech beside those of the true recordings."""

from echostream_plugin.evaluation.resynthesis import error_rates


class FakeASR:
    """Writes the names of files; of the folder `spoken` without a fault."""

    def transcribe_all(self, wavs):
        return [wav.stem if wav.parent.name == "spoken" else f"{wav.stem} too" for wav in wavs]


def test_error_rates_and_transcripts_are_by_name(tmp_path):
    spoken, made = tmp_path / "spoken", tmp_path / "made"
    spoken.mkdir(), made.mkdir()
    for name in ("one", "two"):
        (spoken / f"{name}.flac").touch()
    names, wavs = ["one", "two"], [made / "one.wav", made / "two.wav"]
    rates = error_rates(FakeASR(), names, wavs, ["one", "two"], tmp_path, spoken)
    assert rates == {"wer": 100.0, "wer_originals": 0.0}
    assert (tmp_path / "transcripts.tsv").read_text() == "one\tone\tone too\ntwo\ttwo\ttwo too\n"
    assert "wer_originals" not in error_rates(FakeASR(), names, wavs, ["one", "two"], tmp_path)
