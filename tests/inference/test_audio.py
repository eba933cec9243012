"""Recordings as they are found: cut, damaged, unfinished, without headers, through pipes."""

import io
import struct

import numpy as np
import pytest
import soundfile

from echostream_plugin.inference.audio import open_recording, read_audio, read_mono
from echostream_plugin.inference.errors import InputError, NoRecordingError
from tests.tiny_bundle import speechlike

RATE = 16000
SAMPLES = speechlike(4.0, seed=9)


def sound(kind: str, samples=SAMPLES, rate=RATE, **more) -> bytes:
    """A file of that kind."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **more)
    return file.getvalue()


def blocks(recording, size=1600, start=0) -> np.ndarray:
    pieces = list(recording.blocks(size, start))
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)


def read(path, size=1600, start=0):
    """Samples and problem of a file."""
    with open_recording(path, quiet=True) as recording:
        return blocks(recording, size, start), recording.problem


def piped(data: bytes, raw_rate=None):
    recording = open_recording("-", raw_rate, io.BytesIO(data))
    return blocks(recording), recording


def damaged(data: bytes, length: int) -> bytes:
    """With other bytes in the middle."""
    noise = np.random.default_rng(5).bytes(length)
    return data[: len(data) // 2] + noise + data[len(data) // 2 + length :]


def test_a_cut_flac_is_read_up_to_there(tmp_path):
    data, path = sound("FLAC"), tmp_path / "cut.flac"
    path.write_bytes(data[: len(data) // 2])
    whole = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    samples, problem = read(path)
    assert 16000 < len(samples) < 48000 and np.array_equal(samples, whole[: len(samples)])
    assert "cut.flac: breaks off: only" in problem and "of 4.00 s" in problem
    assert len(read_audio(path)[0]) == len(samples)


def test_a_damaged_flac_is_silent_there_and_goes_on_in_its_place(tmp_path):
    data, path = sound("FLAC"), tmp_path / "in.flac"
    path.write_bytes(damaged(data, 300))
    whole = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    samples, problem = read(path)
    assert len(samples) == len(whole) and "in.flac: damaged at" in problem and "breaks off" not in problem
    other = np.flatnonzero(samples != whole)
    assert 0 < len(other) < 12000 and not samples[other].any()
    for start in (1, 1600, 30000, 40000, 63999):  # as a run that is taken up reads it
        assert np.array_equal(read(path, start=start)[0], samples[start:])


@pytest.mark.parametrize("kind", ["MP3", "OGG"])
def test_damaged_compressed_files_are_read_over(tmp_path, kind, capfd):
    path = tmp_path / f"in.{kind.lower()}"
    path.write_bytes(damaged(sound(kind), 1500))
    samples, problem = read(path)
    assert 30000 < len(samples) <= 64000 and path.name in problem
    assert capfd.readouterr().err == ""  # what the decoder of mp3 says of it
    assert np.array_equal(read(path, start=4800)[0], samples[4800:])


def test_garbage_before_and_after_an_mp3(tmp_path):
    noise = np.random.default_rng(6).bytes(3000)
    (tmp_path / "in.mp3").write_bytes(noise + sound("MP3") + noise)
    assert len(read(tmp_path / "in.mp3")[0]) > 60000


@pytest.mark.parametrize("riff", ["true", "zero", "most"])
@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_an_unfinished_wav_is_read_to_its_end(tmp_path, subtype, length, riff):
    data = bytearray(sound("WAV", subtype=subtype))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", length)
    data[4:8] = {"true": data[4:8], "zero": b"\0\0\0\0", "most": b"\xff\xff\xff\xff"}[riff]
    (tmp_path / "in.wav").write_bytes(data)
    whole = soundfile.read(io.BytesIO(sound("WAV", subtype=subtype)), dtype="float32")[0]
    samples, problem = read(tmp_path / "in.wav")
    assert np.array_equal(samples, whole) and problem == ""
    assert np.array_equal(read(tmp_path / "in.wav", start=1234)[0], whole[1234:])
    assert np.array_equal(read_audio(tmp_path / "in.wav")[0], whole)
    samples, recording = piped(bytes(data))
    assert np.array_equal(samples, whole) and recording.samples is None


def test_a_wav_that_holds_nothing_is_not_unfinished(tmp_path):
    """Chunks after the samples are no samples."""
    data = sound("WAV", np.zeros(0)) + b"LIST" + struct.pack("<I", 6) + b"INFOab"
    (tmp_path / "in.wav").write_bytes(data)
    assert len(read(tmp_path / "in.wav")[0]) == 0 and len(piped(sound("WAV") + b"LIST\x04\0\0\0abcd")[0]) == 64000


def test_a_cut_wav_says_so(tmp_path):
    data = sound("WAV")
    (tmp_path / "in.wav").write_bytes(data[:64045])
    samples, problem = read(tmp_path / "in.wav")
    assert len(samples) == 32000 and "only 2.00 s of 4.00 s" in problem
    samples, recording = piped(data[:64045])
    assert len(samples) == 32000 and "only 2.00 s of 4.00 s" in recording.problem


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW", "PCM_U8", "DOUBLE"])
def test_every_kind_of_wav(tmp_path, subtype):
    rate = 8000 if subtype == "GSM610" else RATE
    data = sound("WAV", SAMPLES, rate, subtype=subtype)
    (tmp_path / "in.wav").write_bytes(data)
    whole = soundfile.read(tmp_path / "in.wav", dtype="float32")[0]
    assert np.array_equal(read(tmp_path / "in.wav")[0], whole)
    assert np.array_equal(read(tmp_path / "in.wav", start=5000)[0], whole[5000:])
    assert np.array_equal(piped(data)[0], whole)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF", "RF64"])
def test_a_pipe_gives_what_the_file_does(tmp_path, kind):
    data = sound(kind, np.stack([SAMPLES, SAMPLES / 2], axis=1))
    (tmp_path / "in").write_bytes(data)
    assert np.array_equal(piped(data)[0], read(tmp_path / "in")[0])


def test_samples_without_a_header(tmp_path):
    data = np.arange(-1000, 1000, dtype="<i2").tobytes()
    (tmp_path / "in.raw").write_bytes(data + b"x")
    expected = np.arange(-1000, 1000, dtype=np.float32) / 32768
    samples, recording = piped(data, 8000)
    assert np.array_equal(samples, expected) and recording.rate == 8000
    with open_recording(tmp_path / "in.raw", 8000) as recording:
        assert np.array_equal(blocks(recording, 7, 5), expected[5:])
    with pytest.raises(InputError, match=r"in.raw: not a readable audio file .*--raw RATE"):
        open_recording(tmp_path / "in.raw")


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time, and counts them."""

    def __init__(self, data):
        self._data, self.given = data, 0

    def readable(self):
        return True

    def read(self, size=-1):
        piece = self._data[self.given : self.given + min(size, 7)]
        self.given += len(piece)
        return piece


def test_a_wav_is_heard_while_it_is_still_coming():
    pipe = Dribble(sound("WAV"))
    pieces = open_recording("-", stdin=pipe).blocks(160)
    assert len(next(pieces)) == 160 and pipe.given < 400


@pytest.mark.parametrize("data", [b"", b"RIFF", b"no sound at all", b"RIFF\0\0\0\0WAVEfmt ", b"\0" * 100])
def test_what_is_no_sound_is_named(tmp_path, data):
    (tmp_path / "in.wav").write_bytes(data)
    with pytest.raises(InputError, match=r"in\.wav: (not a readable|is empty)"):
        open_recording(tmp_path / "in.wav")
    with pytest.raises(InputError, match="standard input: (not a readable|is empty)"):
        piped(data)
    with pytest.raises(InputError, match="nothing comes in"):
        open_recording("-")


@pytest.mark.parametrize("name", ["none.wav", "", "x" * 300, "x/" * 3000, "a\0b", "/dev/zero", "in.wav/x"])
def test_what_is_no_file_is_named(tmp_path, name):
    (tmp_path / "in.wav").write_bytes(sound("WAV"))
    with pytest.raises(NoRecordingError) as caught:
        open_recording(tmp_path / name)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_path_that_is_longer_than_libsndfile_takes(tmp_path, monkeypatch):
    folder = tmp_path
    for _ in range(6):
        folder = folder / ("d" * 200)
    folder.mkdir(parents=True)
    (folder / "in.flac").write_bytes(sound("FLAC"))
    assert len(read_audio(folder / "in.flac")[0]) == 64000


def test_a_wrong_header_is_no_crash():
    """Every byte of a header changed, and every length cut."""
    data = bytearray(sound("WAV", SAMPLES[:800]))
    for at in range(44):
        for value in (0, 1, 0x7F, 0xFF):
            other = data.copy()
            other[at] = value
            try:
                assert np.isfinite(piped(bytes(other))[0]).all()
            except InputError as error:
                assert "standard input" in str(error)
        try:
            piped(bytes(data[:at]))
        except InputError as error:
            assert "standard input" in str(error)


def test_channels_of_opposite_phase_are_one_recording_at_16_khz(tmp_path):
    """Their mean would be silence; as in a session, the louder channel is taken."""
    speech = speechlike(1.0, 48000)
    soundfile.write(tmp_path / "swapped.wav", np.stack([speech, -speech], axis=1), 48000, subtype="FLOAT")
    mono = read_mono(tmp_path / "swapped.wav")
    assert mono.shape == (16000,) and mono.dtype == np.float32
    assert np.square(mono).mean() > 0.5 * np.square(speech).mean()
