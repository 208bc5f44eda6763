"""Tell a client why its request is not carried out, by a status and an error in OpenAI's form."""

from __future__ import annotations

from typing import Any

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    421: "invalid_request_error",
    429: "rate_limit_error",
}
"""OpenAI's names for kinds of errors; all others are "server_error"."""


class RefusedError(Exception):
    """A request that is not carried out, or not to its end."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        """Take what the client is told.

        Args:
            status: the status of HTTP, from 400 on.
            message: one sentence that says what arrived and what was expected.
            param: the field that is at fault.
            code: a word for programs.
            retry: seconds after which it makes sense to ask again.
        """
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry = status, message, param, code, retry

    def body(self) -> dict[str, Any]:
        """Return the error as the JSON value that clients of OpenAI read."""
        kind = KINDS.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        found = {} if self.retry is None else {"retry-after": str(self.retry)}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})
