"""TLS by flags: a certificate made here, a client that checks it, and clients that do not know of it."""

import asyncio
import logging
import os
import re
import signal
import ssl
import subprocess
import sys

import aiohttp
import pytest

from echostream_plugin.cli import main
from echostream_plugin.cli_serve import exposed, tls_context
from echostream_plugin.inference.session import TranslationSession
from tests.serve.running import kinds, pcm, running, texts
from tests.tiny_bundle import save_tiny_bundle, speechlike, tiny_bundle

trustme = pytest.importorskip("trustme", reason="the tests of TLS need: pip install trustme")
RATE = 16000


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def files(authority, tmp_path_factory):
    """Paths of a certificate and its key, of another key, and of the first key with a passphrase."""
    from cryptography.hazmat.primitives import serialization as pem

    folder = tmp_path_factory.mktemp("tls")
    one, other = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("localhost")
    one.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    one.private_key_pem.write_to_path(folder / "key.pem")
    other.private_key_pem.write_to_path(folder / "other.pem")
    key = pem.load_pem_private_key(one.private_key_pem.bytes(), None)
    locked = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret"))
    (folder / "locked.pem").write_bytes(locked)
    (folder / "garbage.pem").write_bytes(b"\x00\xff no certificate")
    return folder


@pytest.fixture(scope="module")
def trusting(authority):
    """What a client needs to trust the certificate."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def speak(url, trusting, samples):
    """All replies of a session over TLS, and the answer to a request for the page."""
    async with aiohttp.ClientSession() as client, client.ws_connect(f"wss://{url}/ws", ssl=trusting) as socket:
        await socket.send_json({"protocol": "events"})
        await socket.send_bytes(pcm(samples))
        await socket.send_json({"end_of_stream": True})
        replies = [message.json() async for message in socket if message.type == aiohttp.WSMsgType.TEXT]
        async with client.get(f"https://{url}/", ssl=trusting) as response:
            return replies, await response.text()


def test_a_client_translates_over_tls_and_plain_clients_harm_nobody(files, trusting, tmp_path, caplog):
    bundle, samples = tiny_bundle(), speechlike(0.9, RATE, seed=2)
    session = TranslationSession(bundle)
    session.push((samples * 32767).astype("<i2"), RATE)
    session.finish()

    async def plain(port):
        async with aiohttp.ClientSession() as client:
            for address in (f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/health"):
                with pytest.raises(aiohttp.ClientError):
                    await client.get(address)
            with pytest.raises(aiohttp.ClientError):
                await client.ws_connect(f"ws://127.0.0.1:{port}/ws")
            with pytest.raises(aiohttp.ClientError):  # who does not trust the certificate gets nothing
                await client.ws_connect(f"wss://127.0.0.1:{port}/ws")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\xff\xff" + b"\x00" * 200)  # a broken TLS greeting
        await reader.read(100)
        writer.close()

    tls = tls_context(files / "cert.pem", files / "key.pem")
    with caplog.at_level(logging.WARNING), running(bundle, tmp_path, tls=tls) as server:
        asyncio.run(plain(server.port))
        replies, page = asyncio.run(speak(f"127.0.0.1:{server.port}", trusting, samples))
    assert kinds(replies)[-1] == "end" and texts(replies)[-1] == session.target_text and "Start microphone" in page
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "cert, key, why",
    [
        ("cert.pem", None, "TLS needs both --cert and --key"),
        (None, "key.pem", "TLS needs both --cert and --key"),
        ("missing.pem", "key.pem", "missing.pem: no such file"),
        ("cert.pem", "missing.pem", "missing.pem: no such file"),
        ("cert.pem", ".", "no such file"),
        ("cert.pem", "other.pem", "not a certificate with its key in PEM"),
        ("key.pem", "cert.pem", "not a certificate with its key in PEM"),
        ("garbage.pem", "key.pem", "not a certificate with its key in PEM"),
        ("cert.pem", "garbage.pem", "not a certificate with its key in PEM"),
        ("cert.pem", "locked.pem", "the key is encrypted"),
    ],
)
def test_certificates_that_cannot_be_used_get_one_line(files, cert, key, why, capsys):
    flags = [part for flag, name in (("--cert", cert), ("--key", key)) if name for part in (flag, str(files / name))]
    assert main(["serve", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and why in lines[0] and lines[0].startswith("echostream: ")


def test_who_can_be_reached_by_others_is_warned():
    assert exposed("127.0.0.1", None, "") == exposed("::1", None, "") == []
    assert len(exposed("0.0.0.0", None, "")) == 2 and len(exposed("fe80::1%eth0", None, "x")) == 1
    assert "--token" in exposed("0.0.0.0", object(), "")[0] and exposed("::", object(), "secret") == []


def test_the_command_serves_over_tls_until_it_is_stopped(files, trusting, tmp_path):
    """All of it as a user starts it: flags, address, warning, a session, SIGTERM."""
    bundle = save_tiny_bundle(tmp_path)
    command = [sys.executable, "-m", "echostream_plugin.cli", "serve", "--port", "0", "--bundle", str(bundle)]
    command += ["--cert", str(files / "cert.pem"), "--key", str(files / "key.pem"), "--quantize", "none"]
    server = subprocess.Popen(
        [*command, "--host", "0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        line, room = server.stdout.readline(), server.stdout.readline()
        port = re.search(r"EchoStream is at https://0\.0\.0\.0:(\d+)/ ", line)[1]
        replies, page = asyncio.run(speak(f"127.0.0.1:{port}", trusting, speechlike(0.9, RATE)))
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert kinds(replies)[-1] == "end" and "Start microphone" in page
    assert server.returncode == 0 and "Traceback" not in log
    assert "anybody who reaches this address may use the server" in log
    assert re.match(r"room for \d+ speakers? at once", room)
