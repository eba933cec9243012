"""Long recordings: sentences lie where the segmentation says, the same in every kind, and an hour fits anywhere."""

import json
import tracemalloc

import numpy as np
import pytest
import soundfile

from echostream_plugin.data import DataError
from echostream_plugin.evaluation.long_recordings import (
    KINDS,
    Segment,
    build,
    read_samples,
    read_segmentation,
    with_pause,
    write_segmentation,
)
from tests.scripts.conftest import load_script
from tests.tiny_bundle import speechlike

SOURCES = ["¿Dónde está la plaza?", "Buenos días.", "El tren llega. Es tarde.", "Busco mis maletas, pero no están."]
TARGETS = ["where is the square", "good morning", "the train arrives it is late", "i look for my suitcases"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SimulEval folder of four recordings, the third of two sentences."""
    folder = tmp_path_factory.mktemp("lists")
    for number in range(4):
        padded = np.pad(speechlike(1.3 + 0.2 * number, seed=number) + 0.02, 1600)
        soundfile.write(folder / f"{number}.wav", padded, 16000)
    for name, lines in (("wav_list", [f"{n}.wav" for n in range(4)]), ("src", SOURCES), ("target", TARGETS)):
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def made(folder, tmp_path, kind, minutes=0.25, seed=1):
    wav = tmp_path / f"{kind}.wav"
    segments = build(read_samples(folder), KINDS[kind], minutes, seed, wav)
    return soundfile.read(wav, dtype="float32")[0], segments


def part(samples, start_ms, end_ms):
    return samples[round(16 * start_ms) : round(16 * end_ms)]


def test_recordings_of_several_sentences_are_left_out(folder, tmp_path):
    assert [sample.target for sample in read_samples(folder)] == [TARGETS[0], TARGETS[1], TARGETS[3]]
    _, segments = made(folder, tmp_path, "silences")
    assert {segment.reference for segment in segments} == {TARGETS[0], TARGETS[1], TARGETS[3]}


def test_sentences_lie_where_the_segmentation_says(folder, tmp_path):
    samples, segments = made(folder, tmp_path, "silences")
    assert len(segments) > 5 and 15 <= len(samples) / 16000 < 18
    for segment, following in zip(segments, [*segments[1:], Segment(len(samples) / 16, 0, "", "")], strict=True):
        silence = part(samples, segment.end_ms, following.start_ms)
        assert 9600 <= len(silence) <= 19200 and not silence.any()
        speech = part(samples, segment.start_ms, segment.end_ms)
        assert np.abs(speech[[0, -1]]).min() > 0 and np.mean(speech**2) > 1e-4


def test_without_silences_a_sentence_begins_where_the_one_before_it_ends(folder, tmp_path):
    samples, segments = made(folder, tmp_path, "none")
    assert [s.start_ms for s in segments[1:]] == pytest.approx([s.end_ms for s in segments[:-1]])
    assert len(samples) == round(16 * segments[-1].end_ms)


def test_every_kind_has_the_same_sentences_in_the_same_order(folder, tmp_path):
    orders = [[s.reference for s in made(folder, tmp_path, kind)[1]] for kind in KINDS]
    shortest = min(map(len, orders))
    assert shortest > 4 and len({tuple(order[:shortest]) for order in orders}) == 1


def test_a_pause_lies_inside_a_sentence_and_nothing_of_it_is_lost(folder, tmp_path):
    samples, segments = made(folder, tmp_path, "pauses")
    for segment in segments:
        quiet = np.flatnonzero(part(samples, segment.start_ms, segment.end_ms) == 0)
        longest = max(map(len, np.split(quiet, np.flatnonzero(np.diff(quiet) > 1) + 1)))
        assert 6400 <= longest <= 14400 + 2
        share = (quiet[len(quiet) // 2] / 16) / segment.duration_ms
        assert 0.15 < share < 0.85
    speech = speechlike(2.0, seed=9)
    paused = with_pause(speech, 1000)
    assert len(paused) == len(speech) + 1000
    assert np.count_nonzero(paused) >= np.count_nonzero(speech) - 200  # what is faded


def test_noise_is_ten_decibels_below_the_speech(folder, tmp_path):
    clean, segments = made(folder, tmp_path, "silences")
    noisy, _ = made(folder, tmp_path, "noise")
    speech = np.concatenate([part(clean, s.start_ms, s.end_ms) for s in segments])
    noise = noisy - clean
    assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(10, abs=1.0)


def test_the_seed_says_it_all(folder, tmp_path):
    first, _ = made(folder, tmp_path, "noise", seed=3)
    again, _ = made(folder, tmp_path, "noise", seed=3)
    other, _ = made(folder, tmp_path, "noise", seed=4)
    assert np.array_equal(first, again) and not np.array_equal(first[:16000], other[:16000])


def test_a_long_recording_is_never_in_memory_as_a_whole(folder, tmp_path):
    samples = read_samples(folder)
    tracemalloc.start()
    build(samples, KINDS["none"], 3.0, 1, tmp_path / "long.wav")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "long.wav").stat().st_size > 5_000_000 > 2_000_000 > peak


def test_segmentations_come_back_and_omnisteval_reads_them(folder, tmp_path):
    recordings = {f"{kind}.wav": made(folder, tmp_path, kind)[1] for kind in ("silences", "none")}
    write_segmentation(tmp_path, recordings)
    assert read_segmentation(tmp_path) == {
        tmp_path / wav: [
            Segment(pytest.approx(s.start_ms), pytest.approx(s.duration_ms), s.source, s.reference) for s in segments
        ]
        for wav, segments in recordings.items()
    }
    data = pytest.importorskip("omnisteval.data", reason="needs: pip install omnisteval==0.1.10")
    words, entries, lines = data.load_reference(
        str(tmp_path / "segmentation.yaml"), str(tmp_path / "reference.txt"), False, False
    )
    flat = [segment for segments in recordings.values() for segment in segments]
    assert [len(of) for of in words] == [sum(len(s.reference.split()) for s in of) for of in recordings.values()]
    assert lines == [segment.reference for segment in flat]
    assert [entry["offset"] for entry in entries] == pytest.approx([segment.start_ms for segment in flat])


def test_references_beside_a_plain_segmentation(folder, tmp_path):
    soundfile.write(tmp_path / "talk.wav", speechlike(2.0), 16000)
    entries = [{"wav": "talk.wav", "offset": 0.1, "duration": 0.5}, {"wav": "talk.wav", "offset": 1, "duration": 0.5}]
    (tmp_path / "segmentation.yaml").write_text(json.dumps(entries))
    (tmp_path / "reference.txt").write_text("one two\nthree\n")
    ((_, segments),) = read_segmentation(tmp_path).items()
    assert segments == [Segment(100, 500, "", "one two"), Segment(1000, 500, "", "three")]


@pytest.mark.parametrize(
    "entries, why",
    [
        (None, "expected a list of wav, offset, duration"),
        ([{"wav": "talk.wav", "offset": 0}], "expected a list"),
        ([{"wav": "talk.wav", "offset": 0, "duration": 1}], "reference.txt"),
        ([{"wav": "gone.wav", "offset": 0, "duration": 1, "reference": "a"}], "no such recording"),
        ([{"wav": "talk.wav", "offset": 0, "duration": 0, "reference": "a"}], "has no duration"),
        ([{"wav": "talk.wav", "offset": 0, "duration": float("nan"), "reference": "a"}], "has no duration"),
        ([{"wav": "talk.wav", "offset": -1, "duration": 1, "reference": "a"}], "seconds from 0 on"),
        ([{"wav": "talk.wav", "offset": 0, "duration": float("inf"), "reference": "a"}], "seconds from 0 on"),
        ([{"wav": "talk.wav", "offset": 9, "duration": 1, "reference": "a"}], "ends at 10.00 s, the recording at 1.00"),
        ([{"wav": 3, "offset": 0, "duration": 1, "reference": "a"}], "expected a list"),
        (["talk.wav"], "expected a list"),
        ([], "no segments"),
    ],
)
def test_segmentations_that_cannot_be_are_named(tmp_path, entries, why):
    soundfile.write(tmp_path / "talk.wav", speechlike(1.0), 16000)
    if entries is not None:
        written = json.dumps(entries).replace("NaN", ".nan").replace("Infinity", ".inf")  # as yaml has them
        (tmp_path / "segmentation.yaml").write_text(written)
    with pytest.raises(DataError, match=why):
        read_segmentation(tmp_path)


@pytest.mark.parametrize(
    "references, why",
    [("one\n", "reference.txt: 1 lines for the 2 segments"), ("a\nb\nc\n", "3 lines"), (b"Se\xf1or\nb\n", "utf-8")],
)
def test_as_many_references_as_segments_are_needed(tmp_path, references, why):
    soundfile.write(tmp_path / "talk.wav", speechlike(1.0), 16000)
    entries = [{"wav": "talk.wav", "offset": at, "duration": 0.5} for at in (0, 0.5)]
    (tmp_path / "segmentation.yaml").write_text(json.dumps(entries))
    (tmp_path / "reference.txt").write_bytes(references if isinstance(references, bytes) else references.encode())
    with pytest.raises(DataError, match=why):
        read_segmentation(tmp_path)


def test_texts_are_a_line_each_whatever_is_in_them(tmp_path):
    """Of a yaml, which takes words for numbers and truths; and an empty last line is a line."""
    soundfile.write(tmp_path / "talk.wav", speechlike(2.0), 16000)
    entries = [f"{{wav: talk.wav, offset: {at}, duration: 0.5, reference: {text}}}" for at, text in TEXTS.items()]
    (tmp_path / "segmentation.yaml").write_text("".join(f"- {entry}\n" for entry in entries))
    ((_, segments),) = read_segmentation(tmp_path).items()
    assert [segment.reference for segment in segments] == ["10", "one\ntwo\u2028three", ""]
    write_segmentation(tmp_path / "again", {"talk.wav": segments})
    assert (tmp_path / "again" / "reference.txt").read_text() == "10\none two three\n\n"
    plain = [{"wav": "../talk.wav", "offset": at, "duration": 0.5} for at in TEXTS]
    (tmp_path / "again" / "segmentation.yaml").write_text(json.dumps(plain))
    ((_, again),) = read_segmentation(tmp_path / "again").items()
    assert [segment.reference for segment in again] == ["10", "one two three", ""]


TEXTS = {0.0: "10", 0.5: '"one\\ntwo\\u2028three"', 1.0: "null"}


def test_the_script_makes_what_it_says(folder, tmp_path, capsys):
    script = load_script("build_longform")
    flags = ["--output", str(tmp_path), "--minutes", "0.1", "--kinds", "silences", "none"]
    assert script.main(["--from", str(folder), *flags]) == 0
    assert list(read_segmentation(tmp_path)) == [tmp_path / "silences.wav", tmp_path / "none.wav"]
    assert "none.wav: " in capsys.readouterr().out
    assert script.main(["--from", str(tmp_path), *flags]) == 2
    assert "no wav_list.txt" in capsys.readouterr().err


@pytest.mark.parametrize("samples", [np.zeros(8000), np.zeros(0)])
def test_a_recording_of_silence_is_named(folder, tmp_path, samples, capsys):
    soundfile.write(tmp_path / "silent.wav", samples, 16000)
    for name in ("wav_list", "src", "target"):
        (tmp_path / f"{name}.txt").write_text("silent.wav\n")
    script = load_script("build_longform")
    for kind in ("silences", "noise"):
        assert script.main(["--from", str(tmp_path), "--output", str(tmp_path / "out"), "--kinds", kind]) == 2
        assert "silent.wav: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_lists_of_different_lengths_and_folders_that_cannot_be_are_named(folder, tmp_path, capsys):
    script = load_script("build_longform")
    (tmp_path / "file").write_text("")
    assert script.main(["--from", str(folder), "--output", str(tmp_path / "file"), "--minutes", "0.1"]) == 2
    assert "file" in capsys.readouterr().err
    for name in ("wav_list", "src", "target"):
        (tmp_path / f"{name}.txt").write_text("a\nb\n" if name == "wav_list" else "a\n")
    assert script.main(["--from", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "wav_list.txt:1: no such recording 'a'" in capsys.readouterr().err
    for name in ("a", "b"):
        (tmp_path / name).touch()
    assert script.main(["--from", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "target.txt: 1 lines for 2 recordings of wav_list.txt" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--minutes", "0"], ["--minutes", "nan"], ["--minutes", "inf"], ["--seed", "-1"]])
def test_numbers_that_cannot_be_are_refused(folder, tmp_path, flags, capsys):
    with pytest.raises(SystemExit):
        load_script("build_longform").main(["--from", str(folder), "--output", str(tmp_path), *flags])
    assert "--minutes must be a number above 0" in capsys.readouterr().err
