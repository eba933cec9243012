"""`echostream serve`: live translation for browsers and other clients."""

import argparse
import dataclasses
import logging
import ssl
from pathlib import Path

from echostream_plugin.cli_options import add_model_flags, add_option_flags, live_options, open_bundle, options_of
from echostream_plugin.config import ConfigError
from echostream_plugin.inference.session import SessionOptions
from echostream_plugin.serve.limits import Limits


def configure(parser: argparse.ArgumentParser):
    """parser: the command's own."""
    parser.description = (
        "Starts a server with a page (open the address that it prints in a browser) and a websocket at "
        "/ws: simulstream's text protocol, or all events (docs/live.md). /health and /metrics say how it is. Ctrl-C "
        "finishes what was heard. It listens on this machine only unless --host says otherwise; browsers give a page "
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
        parser.add_argument(flag, type=f.type, default=f.default, help=f"{f.metadata['help']} (default %(default)s)")
    add_model_flags(parser)
    add_option_flags(parser.add_argument_group("sessions"), SessionOptions)
    parser.set_defaults(run=serve)


def serve(args: argparse.Namespace) -> int:
    """Run the command until it is interrupted."""
    import os

    import torch

    try:
        from aiohttp import web

        from echostream_plugin.serve.app import Server
    except ImportError as error:
        raise ConfigError(f"serving needs {error.name}: pip install 'echostream[serve]'") from error
    limits = Limits(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Limits)})
    tls = tls_context(args.cert, args.key)
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port {args.port}: use 0 to 65535")
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    bundle = open_bundle(args)
    token = args.token or os.environ.get("ECHOSTREAM_TOKEN", "")
    options = live_options(bundle, options_of(args, SessionOptions))
    server = Server(bundle, args.bundle, limits, options, tuple(args.allow_origin), token)
    listen = listening_socket(args.host, args.port)
    host, port = listen.getsockname()[:2]
    print(f"EchoStream is at {'https' if tls else 'http'}://{host}:{port}/  (Ctrl-C ends it)", flush=True)
    web.run_app(server.app(), sock=listen, ssl_context=tls, print=None, shutdown_timeout=30, access_log=None)
    return 0


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
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{cert}, {key}: not a certificate with its key in PEM ({error})") from error
    return context


def listening_socket(host: str, port: int):
    """A bound socket. Raises ConfigError where the address cannot be had."""
    import socket

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listen = socket.socket(family, socket.SOCK_STREAM)
        listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listen.bind((host, port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror or error}); use another --port") from error
    return listen
