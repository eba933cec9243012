"""The page in a real Chromium, with a recording as its microphone. Skipped, with the reason, where there is none."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echostream_plugin.inference.bundle import load_bundle
from echostream_plugin.inference.optimize import optimize
from echostream_plugin.inference.options import bundle_options
from echostream_plugin.inference.session import TranslationSession
from tests import speech
from tests.serve.running import running

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "examples" / "quickstart" / "bundle"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need: pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page's tests need Chromium (apt install chromium)")


@pytest.fixture(scope="module")
def bundle():
    return optimize(load_bundle(BUNDLE))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """The microphone's sound: a recording with silence around it."""
    samples, rate = speech.recording(speech.APPOINTMENT), 16000
    path = tmp_path_factory.mktemp("mic") / "speech.wav"
    quiet = np.zeros(rate * 2, np.float32)
    soundfile.write(path, np.concatenate([quiet[: rate // 2], samples, quiet]), rate)
    return path


@pytest.fixture(scope="module")
def server(bundle):
    with running(bundle, BUNDLE, push_ms=160, resume=2.0) as server:
        yield server


@pytest.fixture
def page(recording, server):
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}%noloop",
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        page = browser.new_page(viewport={"width": 900, "height": 1000})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
        page.goto(server.http)
        page.wait_for_selector("#recordings button")
        yield page
        browser.close()


def status_is(page, text, seconds=90):
    page.wait_for_function(
        "text => document.getElementById('status').textContent.includes(text)", arg=text, timeout=1000 * seconds
    )


def heard_is(page, seconds):
    page.wait_for_function("s => parseFloat(document.getElementById('heard').value) >= s", arg=seconds, timeout=90_000)


@pytest.fixture
def pushes(server, monkeypatch):
    """(samples, rate) of everything that the server's sessions are pushed."""
    batch, found = server.server.engine._batch, []
    push = batch.push

    def recorded(pieces, rates):
        found.extend((piece, rates[key]) for key, piece in pieces.items())
        return push(pieces, rates)

    monkeypatch.setattr(batch, "push", recorded)
    return found


def words_of_a_session(bundle, pushes):
    session = TranslationSession(bundle, bundle_options(bundle))
    for samples, rate in pushes:
        session.push(samples, rate)
    session.finish()
    return session.source_text, session.target_text


def test_the_microphone_is_translated_end_to_end_and_the_voice_is_played(page, bundle, recording, pushes):
    page.click("#start")
    status_is(page, "Listening")
    heard_is(page, soundfile.info(recording).duration + 0.5)
    page.click("#start")
    status_is(page, "Done.")
    source, target = words_of_a_session(bundle, pushes)
    heard = sum(len(samples) / rate for samples, rate in pushes)
    assert heard > soundfile.info(recording).duration and "cita para esta noche" in source
    assert page.inner_text("#sentences .source") == source and page.inner_text("#sentences .target") == target
    page.wait_for_function("() => parseFloat(document.getElementById('spoken').value) > 0.5", timeout=30_000)
    assert page.inner_text("#start") == "Start microphone" and page.problems == []
    for button, kind in (("#save-wav", ".wav"), ("#save-srt", ".srt"), ("#save-log", ".jsonl")):
        with page.expect_download() as download:
            page.click(button)
        path = download.value.path()
        assert download.value.suggested_filename.endswith(kind) and path.stat().st_size > 20
        if kind == ".wav":
            assert soundfile.info(str(path)).duration > 0.5
        if kind == ".srt":
            assert target in path.read_text() and "-->" in path.read_text()
    out = os.environ.get("ECHOSTREAM_SCREENSHOT")
    if out:
        page.screenshot(path=out, full_page=True)


def test_a_bundled_recording_plays_without_a_microphone(page, bundle):
    page.click("#recordings button:nth-child(1)")
    status_is(page, "Playing")
    status_is(page, "Done.")
    assert page.inner_text("#sentences .target") and page.problems == []


def test_a_reload_leaves_no_session_behind(page, server):
    page.click("#start")
    heard_is(page, 0.3)
    assert server.server.sessions
    page.reload()
    page.wait_for_selector("#recordings button")
    deadline = threading.Event()
    for _ in range(200):
        if not server.server.sessions and not server.server.engine._speakers:
            break
        deadline.wait(0.05)
    assert not server.server.sessions and not server.server.engine._speakers


def test_an_unplugged_server_is_said(page, bundle):
    with running(bundle, BUNDLE) as other:
        page.goto(other.http)
        page.wait_for_selector("#recordings button")
        page.click("#start")
        heard_is(page, 0.3)
    page.wait_for_function("() => document.getElementById('status').className === 'error'", timeout=60_000)


def test_the_page_fits_a_phone_and_names_its_controls(page):
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, select, input:not([hidden]), canvas, [role]')].filter("
        "e => !(e.innerText || e.ariaLabel || e.labels?.length || e.title || e.getAttribute('aria-label'))"
        " && e.getAttribute('role') !== 'status').length"
    )
    assert unnamed == 0
