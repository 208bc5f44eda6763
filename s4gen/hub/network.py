"""The way to the hub: whether it can be reached, and what went wrong."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from s4gen.errors import UserError
from s4gen.files.shipped import shipped_names

CONNECT_SECONDS = 3
"""How long to wait for the hub before it counts as out of reach; huggingface_hub by itself tries for half a minute."""


def no_name(name: str) -> str:
    """Say that nothing here has this name, and that the hub can have none like it."""
    names = ", ".join(shipped_names("checkpoints"))
    return f"{name} is no folder, no shipped checkpoint ({names}), and no name on the hub, which is user/name"


def reachable() -> bool:
    """Tell whether something answers where the hub is. Behind a proxy that is for the proxy to find out."""
    if getproxies().keys() - {"no"}:
        return True
    address = urlsplit(constants.ENDPOINT)
    port = address.port or {"http": 80}.get(address.scheme, 443)
    try:
        socket.create_connection((address.hostname, port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def explained(error: Exception, name: str, revision: str | None) -> str:
    """Say in one sentence what went wrong on the way to the hub."""
    if isinstance(error, GatedRepoError):
        return f"{name} is on the hub, and you have to ask its owner for access; then give a token"
    if isinstance(error, RevisionNotFoundError):
        return f"{name} on the hub has no revision {revision!r}: give a branch, a tag or a commit that it has"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no {name} on the hub, or it is private and needs a token; and no folder of that name"
    if isinstance(error, HFValidationError):
        return no_name(name)
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"the hub refused {name}: {str(error).strip().splitlines()[0]}"
    if isinstance(error, UserError):
        return str(error)
    return (
        f"{name} is no folder here and not in the cache, and the hub cannot be reached (no network, or offline mode is "
        "on): connect, or give the path of a folder"
    )
