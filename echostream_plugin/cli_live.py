"""`echostream live`: the microphone of this machine, translated while you speak."""

import argparse
import contextlib
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterable

import numpy as np

from echostream_plugin.cli_errors import DONE, INCOMPLETE, warn
from echostream_plugin.cli_options import add_model_flags, add_option_flags, live_options, open_bundle, options_of
from echostream_plugin.config import ConfigError
from echostream_plugin.inference.events import Sentence, Speech, TargetText, Unsure
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.inference.session import TranslationSession

BLOCK_MS = 80
GONE_S = 5.0  # without a block: the device was unplugged


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = (
        "Translates the microphone: prints the translation as it grows and speaks it. Ctrl-C ends the speech: "
        "what was recorded is still translated; a second one ends at once. Use headphones, or it translates itself. "
        "Needs the library PortAudio (pip install 'echostream[live]'; on Debian: apt install libportaudio2)."
    )
    parser.add_argument("--list-devices", action="store_true", help="print the sound devices and end")
    parser.add_argument("--input", help="microphone: number or part of its name (default: the system's)")
    parser.add_argument("--output", help="loudspeaker: number or part of its name (default: the system's)")
    add_model_flags(parser)
    add_option_flags(parser, SessionOptions)
    parser.set_defaults(run=live)


def live(args: argparse.Namespace) -> int:
    """Run the command until the speaker ends it."""
    sound = portaudio()
    if args.list_devices:
        print(str(sound.query_devices()).strip() or "there are no sound devices")
        return DONE
    devices = [device_of(args.input), device_of(args.output)]
    rate = microphone_rate(sound, devices[0])
    bundle = open_bundle(args)
    session = TranslationSession(bundle, live_options(bundle, options_of(args, SessionOptions)))
    heard = queue.Queue()
    player = Player(sound, devices[1], bundle.vocoder.config.sampling_rate) if session.options.speech else None
    microphone = open_stream(
        sound.InputStream,
        samplerate=rate,
        device=devices[0],
        channels=1,
        dtype="float32",
        blocksize=rate * BLOCK_MS // 1000,
        callback=lambda samples, frames, time, status: heard.put(samples[:, 0].copy()),
    )
    print("Speak now; Ctrl-C ends it.", file=sys.stderr)
    start(microphone, devices[0])
    try:
        stopped = translate_until_interrupted(session, heard, rate, player)
    finally:
        close(microphone)
    show(session.finish_events(), player)
    if player is not None:
        player.finish()
    return DONE if stopped else INCOMPLETE


def translate_until_interrupted(session: TranslationSession, heard: queue.Queue, rate: int, player) -> bool:
    """Push everything that is in the queue, again and again, until Ctrl-C; False where the microphone has gone."""
    try:
        while True:
            try:
                pieces = [heard.get(timeout=GONE_S)]
            except queue.Empty:
                print(file=sys.stderr)
                warn("the microphone brings nothing any more (unplugged?); what was heard is translated")
                return False
            while not heard.empty():
                pieces.append(heard.get_nowait())
            show(session.push_events(np.concatenate(pieces), rate), player)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        rest = [heard.get_nowait() for _ in range(heard.qsize())]
        if rest:
            show(session.push_events(np.concatenate(rest), rate), player)
        return True


def show(events: Iterable, player) -> None:
    """Print what grew, and play what is spoken, as it comes."""
    for event in events:
        if isinstance(event, TargetText):
            print(event.added, end="", flush=True)
        elif isinstance(event, Unsure):
            print(" (not understood)", end="", flush=True)
        elif isinstance(event, Sentence):
            print(flush=True)
        elif isinstance(event, Speech) and player is not None:
            player.play(event.samples)


class Player:
    """Speech without gaps: pieces are played one after the other, silence where there is none."""

    def __init__(self, sound, device, rate: int):
        self._pieces, self._lock, self._empty = deque(), threading.Lock(), threading.Event()
        self._empty.set()
        self._blocks = 0  # that were played, silent ones too
        self._stream = open_stream(
            sound.OutputStream, samplerate=rate, device=device, channels=1, dtype="float32", callback=self._fill
        )
        start(self._stream, device)

    def play(self, samples: np.ndarray) -> None:
        """samples: [n] float32."""
        if len(samples):
            with self._lock:
                self._pieces.append(samples)
                self._empty.clear()

    def finish(self) -> None:
        """Wait until everything was played, or the loudspeaker has gone."""
        played = -1
        while not self._empty.wait(GONE_S):
            if self._blocks == played:
                warn("the loudspeaker plays nothing any more (unplugged?); the translation is complete as text")
                break
            played = self._blocks
        close(self._stream)

    def _fill(self, out, frames, time, status) -> None:
        out.fill(0)
        self._blocks += 1
        place = 0
        with self._lock:
            while place < frames and self._pieces:
                piece = self._pieces.popleft()
                taken = piece[: frames - place]
                out[place : place + len(taken), 0] = taken
                place += len(taken)
                if len(taken) < len(piece):
                    self._pieces.appendleft(piece[len(taken) :])
            if not self._pieces:
                self._empty.set()


def portaudio():
    """The library `sounddevice`. Raises ConfigError that says what to install."""
    try:
        import sounddevice
    except ImportError as error:
        raise ConfigError("the microphone needs: pip install 'echostream[live]'") from error
    except OSError as error:
        raise ConfigError(f"the microphone needs PortAudio ({error}); on Debian: apt install libportaudio2") from error
    return sounddevice


def device_of(text: str | None):
    """A device as sounddevice takes it: a number, part of a name, or None for the system's."""
    return int(text) if text is not None and text.isdigit() else text


def microphone_rate(sound, device) -> int:
    """The microphone's own rate in Hz. Raises ConfigError where there is no microphone."""
    try:
        return int(sound.query_devices(device, "input")["default_samplerate"])
    except (ValueError, sound.PortAudioError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"no microphone ({reason}); --list-devices shows what there is") from error


def open_stream(kind, **settings):
    """A stream of sounddevice. Raises ConfigError that names the device."""
    try:
        return kind(**settings)
    except Exception as error:  # PortAudioError and ValueError, by device and system
        raise cannot_be_used(settings["device"], error) from error


def start(stream, device):
    """Let a stream run. Raises ConfigError that names the device."""
    try:
        stream.start()
    except Exception as error:
        raise cannot_be_used(device, error) from error


def close(stream):
    """End a stream; one whose device has gone has ended already."""
    with contextlib.suppress(Exception):
        stream.stop()
        stream.close()


def cannot_be_used(device, error) -> ConfigError:
    """The error for a sound device that sounddevice refused."""
    name = "default" if device is None else device
    return ConfigError(f"sound device {name}: {' '.join(str(error).split())}; see --list-devices")
