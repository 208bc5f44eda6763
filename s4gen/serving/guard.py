"""Who may ask: which hosts, which pages, with which token; and the headers that keep the page to itself.

A page of a stranger, open in the same browser, must not reach a server on this machine. Such a page either asks across
origins, which its browser says in `Origin` and `Sec-Fetch-Site`; or it has its own name resolved to 127.0.0.1 (DNS
rebinding), and then its name stands in `Host`.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s4gen.serving.metrics import Metrics
from s4gen.serving.refusal import RefusedError
from s4gen.serving.streams import GONE, ClientGoneError, refused

OPEN = ("/", "/healthz", "/page.js", "/page.css", "/panels.js", "/icon.svg")
"""Paths that need no token: the page, which asks for it, and the sign of life. They tell nothing."""
COUNTED = (*OPEN, "/v1/models", "/v1/completions", "/images", "/audio", "/metrics")
"""Paths that are counted under their own name."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer."""


def is_loopback(host: str) -> bool:
    """Return whether a host, as a name or an address, is this machine's own for itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Middleware that lets through what may ask, counts every request, and adds the headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, loopback: bool, token: str | None) -> None:
        """Guard an app.

        Args:
            app: the app.
            metrics: where requests are counted.
            loopback: whether the server listens on this machine's own address alone.
            token: what every request has to know; None: nothing.
        """
        self._app, self._metrics, self._loopback = app, metrics, loopback
        self._token = None if token is None else token.encode("utf-8")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the app answer it."""
        if scope["type"] != "http":  # the beginning and the end of the server
            await self._app(scope, receive, send)
            return
        status, began = GONE, time.monotonic()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._app(scope, receive, sent)
        except RefusedError as refusal:
            await refused(refusal)(scope, receive, sent)
        except ClientGoneError:
            status = GONE  # the app has called it 500, since it knows of no client that goes
            self._metrics.count("dropped")
        finally:
            path = scope["path"] if scope["path"] in COUNTED else "other"
            self._metrics.answered(path, status, time.monotonic() - began)

    def _check(self, path: str, headers: Mapping[str, str]) -> None:
        """Check who asks.

        Raises:
            RefusedError: it may not.
        """
        host = headers.get("host", "")
        if self._loopback and not is_loopback(_name(host)):
            raise RefusedError(421, "this server answers to localhost and 127.0.0.1 alone", code="wrong_host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise RefusedError(403, "a page of another site may not ask this server", code="wrong_origin")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and path not in OPEN:
            raise RefusedError(403, "a page of another site may not ask this server", code="wrong_origin")
        if self._token is None or path in OPEN:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        # Compared in a time that does not depend on where the first difference is.
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8"), self._token):
            raise RefusedError(401, "this server wants its token: Authorization: Bearer TOKEN", code="invalid_api_key")


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
