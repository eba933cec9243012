"""The page in a real Chromium when things go wrong, and what it makes of events that the bundled model seldom says.

A script takes the model's place, so that the tests are about the page."""

import os
import shutil
import time

import numpy as np
import pytest
import soundfile

from echostream_plugin.inference.events import Revision, Sentence, SourceText, Speech, TargetText, Unsure
from tests.serve.running import ScriptedBatch, running
from tests.tiny_bundle import tiny_bundle

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
VOICE = Speech(np.full(8000, 0.1, np.float32), 16000, (1,), 500.0)
SCRIPT = {
    1: [SourceText("hola", "hola", 300.0), TargetText("hello", "hello", 300.0), VOICE],
    2: [Sentence(0, "hola", "hello", 100.0, 400.0, 500.0), Unsure(420.0, 560.0, 0.2, 600.0)],
    3: [SourceText("a todos", "a todos", 700.0), TargetText("to all", "to all", 700.0), Unsure(700.0, 750.0, 0.1, 9.0)],
    4: [Revision(0, "¡Hola!", "Hello there!", 100.0, 400.0, 800.0)],
}  # fmt: skip
LAST = [Revision(1, "A todos.", "To everybody.", 600.0, 1700.0, 1800.0)]

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need: pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the page's tests need Chromium (apt install chromium)")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tiny_bundle(), tmp_path_factory.mktemp("bundle"), batch=ScriptedBatch(SCRIPT, LAST), push_ms=80) as it:
        yield it


@pytest.fixture(scope="module")
def browser():
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required", *flags]
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, server):
    """opened(script before the page's own) -> a page; all are closed at the end, and none may have met an error."""
    context, problems = browser.new_context(), []

    def new(script=""):
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(server.http)
        return page

    yield new
    context.close()
    assert problems == []


@pytest.fixture
def page(opened):
    return opened()


def status_is(page, text):
    said = "text => document.getElementById('status').textContent.includes(text)"
    page.wait_for_function(said, arg=text, timeout=60_000)


def heard_is(page, seconds):
    page.wait_for_function("s => parseFloat(document.getElementById('heard').value) >= s", arg=seconds, timeout=60_000)


def recording(folder, name, seconds=0.7, **form):
    path = folder / name
    soundfile.write(path, 0.1 * np.sin(np.arange(int(16000 * seconds)) / 10), 16000, **form)
    return path


def downloaded(page, button):
    with page.expect_download() as download:
        page.click(button)
    return download.value.path().read_text(encoding="utf-8")


def test_revised_sentences_settle_and_are_in_the_subtitles(page, tmp_path):
    page.set_input_files("#file", recording(tmp_path, "a.wav", 1.0))
    status_is(page, "Done.")
    assert page.locator("#sentences .source").all_inner_texts() == ["¡Hola!", "A todos."]
    assert page.locator("#sentences .target").all_inner_texts() == ["Hello there!", "To everybody."]
    assert page.locator("#sentences li.revised").count() == 2
    notes = page.locator("#sentences .unsure").all_inner_texts()
    assert notes == ["(not understood, 0.4 to 0.6 s)", "(not understood, 0.7 to 0.8 s)"]
    subtitles = downloaded(page, "#save-srt")
    assert subtitles == (
        "1\n00:00:00,100 --> 00:00:01,100\nHello there!\n\n2\n00:00:00,600 --> 00:00:01,700\nTo everybody.\n"
    )
    log = downloaded(page, "#save-log")
    assert log.count('"revision"') == 2 and '"confidence":0.2' in log and log.strip().endswith('"kind":"end"}')


NO_MICROPHONE = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', '%s'))"


@pytest.mark.parametrize(
    "script, said",
    [
        (NO_MICROPHONE % "NotAllowedError", "was not allowed to use the microphone"),
        (NO_MICROPHONE % "NotFoundError", "No microphone was found"),
        (NO_MICROPHONE % "NotReadableError", "another program may have it"),
        (
            "Object.defineProperty(navigator, 'mediaDevices', {value: undefined})",
            "over https or from this machine only",
        ),
    ],
)
def test_without_a_microphone_the_page_says_why_and_takes_no_place(opened, server, script, said, tmp_path):
    page = opened(script)
    page.click("#start")
    status_is(page, said)
    assert page.inner_text("#start") == "Start microphone" and not server.server.sessions
    page.set_input_files("#file", recording(tmp_path, "a.wav"))
    status_is(page, "Done.")


@pytest.mark.parametrize(
    "name, form", [("a.wav", {}), ("a.ogg", {}), ("a.mp3", {}), ("a.flac", {}), ("á b.wav", {"subtype": "FLOAT"})]
)
def test_files_that_a_browser_reads_are_translated(page, tmp_path, name, form):
    page.set_input_files("#file", recording(tmp_path, name, **form))
    status_is(page, f"Playing {name}")
    status_is(page, "Done.")
    assert page.inner_text("#sentences .target >> nth=0")


@pytest.mark.parametrize(
    "content, said",
    [(b"", "x.wav is empty."), (b"\x00\xffnothing" * 500, "x.wav is no audio that this browser can read.")],
)
def test_files_that_are_no_audio_are_refused_by_name(page, server, tmp_path, content, said):
    (tmp_path / "x.wav").write_bytes(content)
    for _ in range(2):  # the same file may be chosen again
        page.set_input_files("#file", tmp_path / "x.wav")
        status_is(page, said)
    assert not server.server.sessions and page.inner_text("#start") == "Start microphone"


def test_a_long_recording_plays_and_can_be_stopped(page, tmp_path):
    page.set_input_files("#file", recording(tmp_path, "long.flac", 600))
    heard_is(page, 0.4)
    page.click("#start")
    status_is(page, "Done.")
    assert page.evaluate("parseFloat(document.getElementById('heard').value)") < 60


def test_a_file_may_be_dropped_anywhere_and_the_page_stays(page):
    page.evaluate("""() => {
        const rate = 16000, data = new DataTransfer(), view = new DataView(new ArrayBuffer(44 + rate));
        [0x46464952, 36 + rate, 0x45564157, 0x20746d66, 16, 0x10001, rate, 2 * rate, 0x100002, 0x61746164, rate]
            .forEach((word, i) => view.setUint32(4 * i, word, true));
        data.items.add(new File([view.buffer], "dropped.wav"));
        document.querySelector("h1").dispatchEvent(
            new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
    }""")
    status_is(page, "Playing dropped.wav")
    status_is(page, "Done.")


def test_everything_can_be_done_with_the_keyboard(page):
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "start":
            break
    page.keyboard.press("Enter")
    status_is(page, "Listening")
    heard_is(page, 0.5)
    page.keyboard.press("Enter")
    status_is(page, "Done.")
    seen = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert {"device", "speak", "monitor", "drop", "save-wav", "save-srt", "save-log"} <= seen
    page.evaluate("() => { document.getElementById('file').onclick = () => { window.asked = true; return false; }; }")
    page.focus("#drop")
    page.keyboard.press("Space")  # asks for a file, as a click does
    page.wait_for_function("window.asked", timeout=60_000)


def test_a_connection_that_breaks_goes_on_where_it_was(page, server, tmp_path):
    page.set_input_files("#file", recording(tmp_path, "a.wav", 4.0))
    heard_is(page, 0.4)
    server.cut()
    status_is(page, "Connected again.")
    status_is(page, "Done.")
    assert page.locator("#sentences .target").all_inner_texts() == ["Hello there!", "To everybody."]
    heard = page.evaluate("parseFloat(document.getElementById('heard').value)")
    assert heard == pytest.approx(4.0, abs=0.05)


def test_a_server_that_was_started_anew_is_said_and_can_be_used(page, server, tmp_path):
    page.set_input_files("#file", recording(tmp_path, "a.wav", 5.0))
    heard_is(page, 0.6)
    server.cut(forget=True)
    status_is(page, "no session waits under this key")
    assert page.locator("#sentences .target").count() and page.is_enabled("#save-log")
    page.set_input_files("#file", recording(tmp_path, "b.wav"))
    status_is(page, "Done.")


def test_two_tabs_are_two_speakers(opened, server, tmp_path):
    first, second = opened(), opened()
    path = recording(tmp_path, "a.wav", 4.0)  # on a busy machine the script's four pushes take that long
    for page in (first, second):
        page.set_input_files("#file", path)
    for page in (first, second):
        status_is(page, "Done.")
        assert page.locator("#sentences .target").all_inner_texts() == ["Hello there!", "To everybody."]
    deadline = time.monotonic() + 20
    while server.server.sessions and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not server.server.sessions


def test_a_start_while_something_is_finishing_begins_anew(page, tmp_path):
    page.set_input_files("#file", recording(tmp_path, "a.wav", 20.0))
    heard_is(page, 0.3)
    page.set_input_files("#file", recording(tmp_path, "b.wav"))
    status_is(page, "Playing b.wav")
    status_is(page, "Done.")
    page.click("#start")
    status_is(page, "Listening")
    page.evaluate("() => { document.getElementById('start').click(); document.getElementById('start').click(); }")
    status_is(page, "Listening")
    heard_is(page, 0.3)
    page.click("#start")
    status_is(page, "Done.")
