"""Documents put and deleted over HTTP: authorised here, worked on by the ingestion service, followed by a job."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from quarry_contract.errors import ErrorCode, QuarryError, invalid
from quarry_contract.messages import Job
from quarry_contract.uploads import HEADER_PRINCIPALS, check_document_id, decode_principals, encode_principals

from .auth import Caller
from .ingestion import Body, Ingestion
from .openapi import described
from .routes import authenticated, deadline_of, gateway, reply, request_id

JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
MEDIA_TYPE = re.compile(r"[a-z0-9.+_-]{1,63}/[a-z0-9.+_-]{1,63}\Z")


async def may_write(request: Request, caller: Annotated[Caller, Depends(authenticated)]) -> Caller:
    """The caller, who may change documents. Raises Refused."""
    gateway(request).authenticator.check_writes(caller)
    return caller


Writer = Annotated[Caller, Depends(may_write)]
router = APIRouter()


def ingestion(request: Request) -> Ingestion:
    """Where changes go.

    Raises:
        QuarryError: `not_implemented`, this gateway has none.
    """
    found = gateway(request).ingestion
    if found is None:
        raise QuarryError(ErrorCode.NOT_IMPLEMENTED, "this gateway takes no documents: QUARRY_GATEWAY_INGESTION_URL is not set")
    return found


@router.put("/v1/documents/{document_id:path}", **described("put"))
async def put(request: Request, document_id: str, caller: Writer) -> Response:
    """Put a document into the index, or a new version in the place of the old: the body is the file as it is, of any kind that is read.

    Whether there was one before does not show, and the readers named replace those it had. The reply comes when the bytes are safe;
    the job says when every question sees them.
    """
    service, settings = ingestion(request), gateway(request).settings
    check_document_id(document_id)
    given = request.headers.getlist(HEADER_PRINCIPALS)
    principals = decode_principals(",".join(given)) if given else caller.own
    headers = {HEADER_PRINCIPALS: encode_principals(principals), "Content-Type": _media_type(request)}
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared[:20]) > settings.max_upload_bytes:
        raise QuarryError(ErrorCode.TOO_LARGE, f"the document is larger than {settings.max_upload_bytes} bytes")
    body = Body(request.stream(), settings.max_upload_bytes)
    deadline = deadline_of(request, settings.upload_deadline_ms, settings.upload_deadline_ms)
    return _accepted(request, await service.put(document_id, body, headers, caller.subject, request_id(request), deadline))


@router.delete("/v1/documents/{document_id:path}", **described("delete"))
async def delete(request: Request, document_id: str, caller: Writer) -> Response:
    """Take a document out of the index; with `forget=true`, and whatever was kept about it. Whether there was one does not show."""
    service = ingestion(request)
    check_document_id(document_id)
    forget = request.query_params.get("forget", "false")
    if forget not in ("true", "false"):
        raise invalid("forget must be true or false")
    return _accepted(request, await service.delete(document_id, forget == "true", caller.subject, request_id(request), _deadline(request)))


@router.get("/v1/jobs/{job_id}", **described("job"))
async def job(request: Request, job_id: str, caller: Writer) -> Response:
    """How a change stands, for who asked for it."""
    service = ingestion(request)
    if not JOB_ID.match(job_id):
        raise QuarryError(ErrorCode.NOT_FOUND, "there is no such job of yours")
    try:
        found = await service.job(job_id, caller.subject, request_id(request), _deadline(request))
    except QuarryError as error:
        if error.code is ErrorCode.NOT_FOUND:
            raise QuarryError(ErrorCode.NOT_FOUND, "there is no such job of yours") from None
        raise
    return reply({**found.to_dict(), "request_id": request_id(request)})


def _deadline(request: Request) -> float:
    settings = gateway(request).settings
    return deadline_of(request, settings.deadline_ms, settings.deadline_max_ms)


def _media_type(request: Request) -> str:
    """What the caller says it is; only a hint, the content decides."""
    said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return said if MEDIA_TYPE.match(said) else "application/octet-stream"


def _accepted(request: Request, made: Job) -> Response:
    accepted = reply({**made.to_dict(), "request_id": request_id(request)})
    accepted.status_code = 202
    accepted.headers["Location"] = f"/v1/jobs/{made.job_id}"
    return accepted
