"""Run `s4gen serve`, which answers requests for samples over HTTP."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from s4gen.cli.arguments import number, whole
from s4gen.config.names import ENGINES
from s4gen.errors import UserError

if TYPE_CHECKING:
    from s4gen.serving.limits import Limits

SUMMARY = "Serve models over HTTP: in the form that OpenAI's clients speak, and as a page to try them on."
EXAMPLES = ("s4gen serve mnist-small wikitext2-small",)
HOST, PORT = "127.0.0.1", 8000
TOKEN = "S4GEN_TOKEN"
"""The environment variable that may hold the token, where a list of processes does not show it."""
LEAST_TOKEN = 16
"""Characters that a token must have, so that it cannot be guessed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints",
        metavar="CHECKPOINT",
        nargs="+",
        help="folders, or names of shipped checkpoints, of images, text or sound; requests call a model by the name of "
        "its folder, or by NAME where NAME=CHECKPOINT is given",
    )
    parser.add_argument("--host", default=HOST, help=f"the address to listen on; others need a token (default: {HOST})")
    parser.add_argument(
        "--port", type=whole(0), default=PORT, metavar="PORT", help=f"0: any that is free (default: {PORT})"
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help=f"what clients have to send, as OpenAI's send their key; at least {LEAST_TOKEN} characters (default: what "
        f"{TOKEN} holds, which no list of processes shows)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="auto: the native engine where it came with s4gen or can be compiled (default: auto)",
    )
    positive = number("a number greater than 0", lambda value: value > 0)
    limits = parser.add_argument_group("limits")
    limits.add_argument("--rows", type=whole(1), metavar="N", help="samples drawn at a time (default: 128)")
    limits.add_argument("--per-request", type=whole(1), metavar="N", help="samples of one request (default: 64)")
    limits.add_argument(
        "--queue",
        type=whole(0),
        metavar="N",
        help="requests that wait for room; more are answered with 429 (default: 64)",
    )
    limits.add_argument("--max-tokens", type=whole(1), metavar="N", help="tokens drawn for a text (default: 4096)")
    limits.add_argument("--prompt-tokens", type=whole(1), metavar="N", help="of all prompts together (default: 16384)")
    limits.add_argument("--seconds", type=positive, metavar="S", help="of sound that is drawn (default: 30)")
    limits.add_argument("--body", type=whole(1), metavar="BYTES", help="of a request (default: 262144)")
    limits.add_argument(
        "--unread", type=whole(1), metavar="BYTES", help="kept for a client that does not read (default: 1048576)"
    )
    limits.add_argument("--timeout", type=positive, metavar="S", help="seconds for a request (default: 300)")
    limits.add_argument(
        "--stall", type=positive, metavar="S", help="seconds until an idle connection is closed (default: 30)"
    )
    limits.add_argument(
        "--grace", type=positive, metavar="S", help="seconds to finish requests in after Ctrl-C (default: 10)"
    )


def run(args: argparse.Namespace) -> int:
    token = token_of(args.token, os.environ.get(TOKEN))
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"s4gen serve needs {error.name}, which is missing: pip install 's4gen[serve]'") from None
    from s4gen.serving.app import make_app
    from s4gen.serving.guard import is_loopback
    from s4gen.serving.served import load_all
    from s4gen.serving.server import address_of, bind, serve

    if not args.host:
        raise UserError(f"--host is empty: give an address, such as {HOST}")
    loopback = is_loopback(args.host)
    if not loopback and token is None:
        raise UserError(
            f"--host {args.host} lets others ask, so it needs a token: give --token or set {TOKEN}; or listen on {HOST}"
        )
    if args.port > 65535:
        raise UserError(f"--port {args.port}: expected 0 to 65535")
    listening = bind(args.host, args.port)  # before models are loaded, which takes longer
    with listening:
        limits = limits_of(args)
        models = load_all(args.checkpoints, args.engine)
        app, state = make_app(models, limits, loopback=loopback, token=token)

        def ready() -> None:
            for model in models.values():
                print(f"{model.name}: {model.kind}, {model.parameters:,} parameters, {model.engine.name}")
            print(f"serving on {address_of(listening)} (Ctrl-C ends it)", flush=True)

        if serve(app, state, listening, ready) == signal.SIGINT:
            raise KeyboardInterrupt
    print("s4gen: stopped", file=sys.stderr)
    return 0


def limits_of(args: argparse.Namespace) -> Limits:
    """Return the limits, of which the command line may have set some.

    Raises:
        UserError: a request could have more rows than are drawn at a time.
    """
    from s4gen.serving.limits import Limits

    given = {each.name: getattr(args, each.name) for each in fields(Limits)}
    limits = Limits(**{name: value for name, value in given.items() if value is not None})
    if limits.per_request > limits.rows:
        if args.per_request is not None:
            raise UserError(f"--per-request {limits.per_request} is more than the {limits.rows} of --rows")
        return Limits(**{**vars(limits), "per_request": limits.rows})
    return limits


def token_of(argument: str | None, environment: str | None) -> str | None:
    """Return the token that clients have to know; None: they need none.

    Raises:
        UserError: it is too short, or cannot stand in a header.
    """
    token, where = (argument, "--token") if argument is not None else (environment, TOKEN)
    if token is None:
        return None
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{where} must have at least {LEAST_TOKEN} characters, of ASCII and without spaces; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token
