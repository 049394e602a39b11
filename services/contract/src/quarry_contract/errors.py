"""The error table: one stable code, one HTTP status, the same in every service (problem+json, RFC 9457)."""

from enum import Enum
from http import HTTPStatus
from typing import Any


class ErrorCode(Enum):
    """`code.value` is what clients match on; `code.status` is the HTTP status it travels with."""

    INVALID_REQUEST = ("invalid_request", 400, "The request is not valid.")
    UNAUTHORISED = ("unauthorised", 401, "Credentials are missing or not valid.")
    FORBIDDEN = ("forbidden", 403, "These credentials do not allow this.")
    NOT_FOUND = ("not_found", 404, "There is nothing under this address or name.")
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, "This address does not take this method.")
    TOO_LARGE = ("too_large", 413, "The request is larger than this service takes.")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415, "The body must be application/json.")
    OVERLOADED = ("overloaded", 429, "The service is full; try again later.")
    INTERNAL = ("internal", 500, "Something failed inside the service; the request id finds it in the log.")
    NOT_IMPLEMENTED = ("not_implemented", 501, "This release does not offer this yet.")
    UPSTREAM_FAILED = ("upstream_failed", 502, "A service this one depends on failed.")
    NOT_READY = ("not_ready", 503, "The service is starting, stopping or has no model.")
    DEADLINE_EXCEEDED = ("deadline_exceeded", 504, "The time allowed for the request is over.")

    def __init__(self, code: str, status: int, title: str) -> None:
        self.code = code
        self.status = status
        self.title = title


BY_CODE = {member.code: member for member in ErrorCode}


class QuarryError(Exception):
    """An error a client may see. `detail` says what is wrong and what to do, and never repeats the input."""

    def __init__(self, code: ErrorCode, detail: str = "", retry_after_sec: int | None = None) -> None:
        super().__init__(f"{code.code}: {detail}")
        self.code = code
        self.detail = detail or code.title
        self.retry_after_sec = retry_after_sec

    def to_problem(self, request_id: str) -> dict[str, Any]:
        """The problem+json body."""
        return {
            "type": f"urn:quarry:error:{self.code.code}",
            "title": HTTPStatus(self.code.status).phrase,
            "status": self.code.status,
            "code": self.code.code,
            "detail": self.detail,
            "request_id": request_id,
        }


def invalid(detail: str) -> QuarryError:
    """An `invalid_request` error."""
    return QuarryError(ErrorCode.INVALID_REQUEST, detail)
