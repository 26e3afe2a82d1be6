"""Errors as OpenAI's clients know them: a status and {"error": {"message", "type", "param", "code"}}.

Boundary: knows the exceptions of edgephi and no route. The text of an error that is not the client's own doing stays in
the log: it may name files of this machine.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from starlette.responses import JSONResponse

from ..errors import (
    BundleError,
    ContextOverflow,
    EdgePhiError,
    MediaError,
    MissingDependency,
    NonFiniteLogits,
    ProviderUnavailable,
    RequestError,
    SessionBusy,
)

LOG = logging.getLogger("edgephi.server")
_PARAMETER = re.compile(r"[a-z_]+(\[\d+\]|\.[a-z_]+)*(?=[ :,]|$)")
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Problem:
    """What a client is told. `retry_after`: seconds after which asking again makes sense; None where it makes none."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None

    @property
    def payload(self) -> dict[str, object]:
        """The JSON body."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole response. OpenAI's clients ask again by themselves unless told that it is of no use."""
        headers = {"x-should-retry": "false"}
        if self.retry_after is not None:
            headers = {"retry-after": str(self.retry_after)}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.payload, self.status, headers)


class Refused(EdgePhiError):
    """A request that ends with `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def problem_of(error: BaseException) -> Problem:
    """What to tell the client about `error`; what it is not told is logged."""
    message = " ".join(str(error).split())
    if isinstance(error, Refused):
        return error.problem
    if isinstance(error, ContextOverflow):
        return Problem(400, message, "context_length_exceeded", "messages")
    if isinstance(error, MediaError):
        return Problem(400, message, "invalid_media", _parameter(message))
    if isinstance(error, RequestError):
        return Problem(400, message, "invalid_value", _parameter(message))
    if isinstance(error, NonFiniteLogits):
        return Problem(500, message, "nonfinite_logits")
    if isinstance(error, SessionBusy):
        return Problem(503, message, "busy", retry_after=1)
    if isinstance(error, BundleError | ProviderUnavailable):
        LOG.error("%s", message)
        return Problem(500, "the model cannot be loaded; the server's log says why", "model_load_failed")
    if isinstance(error, MissingDependency):
        return Problem(501, message, "not_installed")
    if isinstance(error, MemoryError):
        LOG.error("out of memory: %s", message)
        return Problem(500, "the memory of the server is used up: ask for less at once", "out_of_memory")
    LOG.error("defect: %s: %s", type(error).__name__, message, exc_info=error)
    return Problem(500, "the server made a mistake; its log says which", "internal_error")


def _parameter(message: str) -> str | None:
    """The parameter that the text of an error is about: all of them begin with it."""
    found = _PARAMETER.match(message)
    return found[0] if found else None
