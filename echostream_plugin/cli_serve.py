"""`echostream serve`: live translation for browsers and other clients."""

import argparse
import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import signal
import ssl
from pathlib import Path

from echostream_plugin.cli_options import add_model_flags, add_option_flags, live_options, open_bundle, options_of
from echostream_plugin.config import ConfigError
from echostream_plugin.inference.options import SessionOptions
from echostream_plugin.serve.limits import Limits

LOG = logging.getLogger("echostream.serve")


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = (
        "Starts a server with a page (open the address that it prints in a browser) and a websocket at "
        "/ws: simulstream's text protocol, or all events (docs/live.md). /health and /metrics say how it is. Ctrl-C "
        "finishes what has come. It listens on this machine only unless --host says otherwise; browsers give a page "
        "of another machine the microphone only over TLS (--cert, --key)."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s; all: 0.0.0.0)")
    parser.add_argument("--port", type=int, default=8080, help="port, 0: any that is free (default %(default)s)")
    parser.add_argument("--cert", type=Path, help="TLS certificate (PEM)")
    parser.add_argument("--key", type=Path, help="its private key (PEM)")
    parser.add_argument("--token", default="", help="what clients must show (or ECHOSTREAM_TOKEN in the environment)")
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a page of another site that may connect, such as https://example.org; repeatable",
    )
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's choice)")
    for f in dataclasses.fields(Limits):
        flag = "--" + f.name.replace("_", "-")
        kind, default = (speakers, "auto") if f.default is None else (f.type, f.default)
        parser.add_argument(flag, type=kind, default=default, help=f"{f.metadata['help']} (default %(default)s)")
    add_model_flags(parser)
    add_option_flags(parser.add_argument_group("sessions"), SessionOptions)
    parser.set_defaults(run=serve)


def serve(args: argparse.Namespace) -> int:
    """Run the command until it is interrupted."""
    import os

    import torch

    try:
        from echostream_plugin.serve.app import Server
        from echostream_plugin.serve.door import Door, raise_file_limit
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'echostream[serve]'") from error
    limits = Limits(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Limits)})
    tls = tls_context(args.cert, args.key)
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port {args.port}: use 0 to 65535")
    if args.threads:
        torch.set_num_threads(args.threads)
    bundle = open_bundle(args)
    token = args.token or os.environ.get("ECHOSTREAM_TOKEN", "")
    options = live_options(bundle, options_of(args, SessionOptions))
    server = Server(bundle, args.bundle, limits, options, tuple(args.allow_origin), token)
    listen = listen_at(args.host, args.port)
    raise_file_limit(limits.connections)
    for warning in exposed(listen.getsockname()[0], tls, token):
        LOG.warning(warning)
    door = Door(server.app(), listen, tls, limits.connections)

    def say():
        print(f"EchoStream is at {address_of(listen, tls)}  (Ctrl-C ends it)", flush=True)
        room = server.engine.room
        print(
            f"room for {room} speaker{'s' * (room > 1)} at once (--max-sessions {args.max_sessions or 'auto'})",
            flush=True,
        )

    asyncio.run(serve_until_stopped(door, say))
    return 0


async def serve_until_stopped(door, say):
    """Open the door and say() so, until SIGINT or SIGTERM; what was heard is finished. A second one ends at once."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt here
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
    try:
        await door.open()
        say()
        await stopped.wait()
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.default_int_handler)
        await door.close()


def speakers(text: str) -> int | None:
    """The value of --max-sessions; None for 'auto'."""
    return None if text == "auto" else int(text)


def address_of(listen, tls) -> str:
    """The URL of a listening socket."""
    host, port = listen.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"


def exposed(host: str, tls, token: str) -> list[str]:
    """What to warn of where others than this machine can reach the server."""
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return []
    found = [] if token else ["anybody who reaches this address may use the server: --token asks them for a secret"]
    return found if tls else [*found, "browsers of other machines give no microphone without TLS: --cert and --key"]


def tls_context(cert, key):
    """The TLS settings of a certificate and its key; None without. Raises ConfigError."""
    if not (cert or key):
        return None
    if not (cert and key):
        raise ConfigError("TLS needs both --cert and --key")
    for path in (cert, key):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def locked():  # else the terminal would be asked
        raise ConfigError(f"{key}: the key is encrypted; give one without a passphrase (openssl pkey -in {key})")

    try:
        context.load_cert_chain(cert, key, locked)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{cert}, {key}: not a certificate with its key in PEM ({error})") from error
    return context


def listen_at(host: str, port: int):
    """A bound socket. Raises ConfigError where the address cannot be had."""
    from echostream_plugin.serve.door import listening_socket

    try:
        return listening_socket(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror or error}); use another --port") from error
