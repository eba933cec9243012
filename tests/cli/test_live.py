"""The command-line microphone, with a sound library that plays a recording into it."""

import sys
import types

import numpy as np
import pytest

from echostream_plugin.cli import main
from echostream_plugin.cli_live import Player
from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.inference.session import TranslationSession
from tests.tiny_bundle import save_tiny_bundle, speechlike

RATE = 44100


class FakeSound(types.ModuleType):
    """sounddevice with one microphone, whose recording is over at once, and a loudspeaker that keeps what it plays."""

    class PortAudioError(Exception):
        pass

    def __init__(self, samples=None, microphones=1):
        super().__init__("sounddevice")
        self.samples, self.microphones, self.played = samples, microphones, []
        fake = self

        class Stream:
            def __init__(self, callback, samplerate, device, channels, dtype, blocksize=0):
                if device == "broken":
                    raise fake.PortAudioError("Invalid device")
                self.callback, self.rate, self.block = callback, samplerate, blocksize

            def __enter__(self):
                self.start()
                return self

            def __exit__(self, *_):
                pass

            def stop(self):
                pass

            close = stop

        class InputStream(Stream):
            def start(self):
                for start in range(0, len(fake.samples), self.block):
                    self.callback(fake.samples[start : start + self.block, None], self.block, None, None)

        class OutputStream(Stream):
            def start(self):
                import threading

                threading.Thread(target=self.run, daemon=True).start()

            def run(self):
                import time

                for _ in range(4000):
                    out = np.empty((512, 1), np.float32)
                    self.callback(out, 512, None, None)
                    fake.played.append(out[:, 0])
                    time.sleep(0.001)

        self.InputStream, self.OutputStream = InputStream, OutputStream

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return "0 a microphone\n1 a loudspeaker"
        if not self.microphones:
            raise self.PortAudioError("Error querying device -1")
        return {"default_samplerate": float(RATE)}


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory):
    return save_tiny_bundle(tmp_path_factory.mktemp("live"))


@pytest.fixture
def sound(monkeypatch):
    def use(**options):
        fake = FakeSound(**options)
        monkeypatch.setitem(sys.modules, "sounddevice", fake)
        return fake

    return use


def interrupt_when_empty(monkeypatch):
    """Ctrl-C as soon as nothing is left to hear."""
    import queue

    class Microphone(queue.Queue):
        def get(self, *args, **more):
            if self.empty():
                raise KeyboardInterrupt
            return super().get(*args, **more)

    monkeypatch.setattr("echostream_plugin.cli_live.queue.Queue", Microphone)


def test_the_microphone_is_printed_and_spoken(bundle_folder, sound, monkeypatch, capsys):
    samples = speechlike(2.0, RATE)
    fake = sound(samples=samples)
    interrupt_when_empty(monkeypatch)
    assert main(["live", "--bundle", str(bundle_folder), "--pause-ms", "0", "--quantize", "none"]) == 0
    bundle = load_bundle(bundle_folder)
    session = TranslationSession(bundle, bundle_options(bundle))
    events = session.push(samples, RATE) + session.finish()
    assert capsys.readouterr().out.strip() == session.target_text
    spoken = np.concatenate([event.samples for event in events if hasattr(event, "samples")])
    played = np.concatenate(fake.played)
    assert np.array_equal(played[played != 0], spoken[spoken != 0])  # pieces may have silence between them


def test_devices_are_listed_and_errors_say_what_to_do(bundle_folder, sound, monkeypatch, capsys):
    sound()
    assert main(["live", "--list-devices"]) == 0 and "1 a loudspeaker" in capsys.readouterr().out
    sound(microphones=0)
    assert main(["live", "--bundle", str(bundle_folder)]) != 0
    assert "no microphone" in capsys.readouterr().err
    sound(samples=np.zeros(0, np.float32))
    assert main(["live", "--bundle", str(bundle_folder), "--output", "broken"]) != 0
    assert "sound device broken: Invalid device; see --list-devices" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main(["live"]) != 0
    assert "pip install 'echostream[live]'" in capsys.readouterr().err


def test_pieces_are_played_without_gaps_whatever_the_block():
    class Silent(FakeSound):
        pass

    fake = Silent()
    fake.OutputStream.start = lambda self: None
    player = Player(fake, None, 16000)
    pieces = [np.full(n, n, np.float32) for n in (3, 700, 1, 40)]
    for piece in pieces:
        player.play(piece)
    out = []
    for frames in (2, 100, 5, 600, 64):
        block = np.empty((frames, 1), np.float32)
        player._fill(block, frames, None, None)
        out.append(block[:, 0])
    whole = np.concatenate(out)
    assert np.array_equal(whole[:744], np.concatenate(pieces)) and not whole[744:].any()


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if line]
    assert len([line for line in lines if line.startswith("echostream: ")]) == 1 and "Traceback" not in "".join(lines)
    return " ".join(lines)


def test_a_microphone_that_is_unplugged_ends_with_what_it_had_said(bundle_folder, sound, monkeypatch, capsys):
    """No block comes any more: one line, everything that was heard is translated, and the exit code says so."""
    monkeypatch.setattr("echostream_plugin.cli_live.GONE_S", 0.2)
    samples = speechlike(2.0, RATE)
    sound(samples=samples)
    flags = ["--bundle", str(bundle_folder), "--pause-ms", "0", "--quantize", "none"]
    assert main(["live", *flags]) == 1
    bundle = load_bundle(bundle_folder)
    session = TranslationSession(bundle, bundle_options(bundle))
    session.push(samples, RATE)
    session.finish()
    out, err = capsys.readouterr()
    assert out.strip() == session.target_text and session.target_text
    assert err.count("echostream: ") == 1 and "the microphone brings nothing any more (unplugged?)" in err


def test_a_loudspeaker_that_is_unplugged_leaves_the_text(bundle_folder, sound, monkeypatch, capsys):
    monkeypatch.setattr("echostream_plugin.cli_live.GONE_S", 0.2)
    fake = sound(samples=speechlike(2.0, RATE))
    fake.OutputStream.run = lambda self: None
    interrupt_when_empty(monkeypatch)
    assert main(["live", "--bundle", str(bundle_folder), "--pause-ms", "0", "--quantize", "none"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() and err.count("echostream: ") == 1 and "the loudspeaker plays nothing any more" in err


@pytest.mark.parametrize("kind", ["InputStream", "OutputStream"])
def test_a_device_that_does_not_start_is_named(bundle_folder, sound, capsys, kind):
    fake = sound(samples=speechlike(0.5, RATE))

    def start(self):
        raise fake.PortAudioError("Device unavailable\n[PaErrorCode -9985]")

    getattr(fake, kind).start = start
    assert main(["live", "--bundle", str(bundle_folder), "--quantize", "none"]) == 2
    assert "sound device default: Device unavailable [PaErrorCode -9985]; see --list-devices" in one_line(capsys)


def test_without_the_library_of_the_system_it_says_what_to_install(sound, monkeypatch, capsys):
    import importlib.abc

    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    assert main(["live"]) == 2
    assert "the microphone needs PortAudio (PortAudio library not found); on Debian: apt install" in one_line(capsys)


def test_a_machine_without_sound_devices_says_so(sound, capsys):
    fake = sound()
    fake.query_devices = lambda *_: ""
    assert main(["live", "--list-devices"]) == 0 and capsys.readouterr().out == "there are no sound devices\n"
