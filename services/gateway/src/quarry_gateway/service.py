"""What the gateway does with a question: run the pipeline, compose the reply, verify it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from haystack import Pipeline
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import MAX_RANGES, AnswerRequest, AnswerResponse, DocumentText

from . import answers
from .answers import EvidenceGone, EvidenceMismatch, Findings
from .auth import Authenticator, Caller
from .components import to_passage
from .ingestion import Ingestion
from .mirror import Mirror
from .releases import Releases, ServedRelease
from .settings import Settings
from .telemetry import Metrics, log
from .upstream import CALL, Call

ALLOWED_MODULES = ["quarry_gateway.components", "haystack.*", "haystack_integrations.*"]
TRIES = 3  # of a question whose documents change while it is answered


class PipelineError(Exception):
    """The pipeline's YAML cannot be used; the message says why."""


class Gateway:
    """The live release behind one pipeline."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.authenticator = Authenticator(settings.auth, metrics)
        self.releases = Releases(settings, metrics)
        self.mirror = Mirror(self.releases, metrics)
        self.pipeline = load_pipeline(settings.pipeline)
        self.ingestion = Ingestion(settings.ingestion_url, metrics.hop) if settings.ingestion_url else None
        self.stopping = False

    async def start(self) -> None:
        """Look for keys and releases, and go on looking."""
        if self.authenticator.keys is not None:
            await self.authenticator.keys.refresh()
        await self.releases.start()

    async def close(self) -> None:
        """Close all connections."""
        await self.mirror.close()
        await self.releases.close()
        if self.authenticator.keys is not None:
            await self.authenticator.keys.close()
        if self.ingestion is not None:
            await self.ingestion.close()

    def call(self, release: ServedRelease, deadline: float, request_id: str, caller: Caller) -> Call:
        """What one request's upstream calls share."""
        return Call(release.manifest, release.retriever, release.reader, deadline, request_id, caller.principals)

    async def answer(self, request: AnswerRequest, call: Call) -> AnswerResponse:
        """Answer, verified, and count what is missing from the reply. Raises as `answer_quietly`."""
        response = await self.answer_quietly(request, call)
        for what in response.degraded:
            self.metrics.degraded.labels(what).inc()
        if response.reason is not None:
            self.metrics.abstained.labels(response.reason).inc()
            self.metrics.release_abstained.labels(response.release_id).inc()
        return response

    async def answer_quietly(self, request: AnswerRequest, call: Call) -> AnswerResponse:
        """Answer, verified. When a cited document changes between search and verification, the whole question is asked again.

        Raises:
            QuarryError: as the upstreams; `not_implemented` for modes this release does not have; `not_ready` when documents kept changing.
            EvidenceMismatch: a citation does not hold (and nothing is answered).
        """
        if request.mode != "extractive" or request.stream:
            raise QuarryError(ErrorCode.NOT_IMPLEMENTED, 'this release answers with mode "extractive" and stream false only')
        for _ in range(TRIES):
            try:
                return await self._answer_once(request, call)
            except EvidenceGone:
                self.metrics.asked_again.inc()
        raise QuarryError(ErrorCode.NOT_READY, "documents changed while they were read: ask again", retry_after_sec=1)

    async def _answer_once(self, request: AnswerRequest, call: Call) -> AnswerResponse:
        findings = await self._find(request, call)
        try:
            response = answers.compose(request, findings, call.release.threshold, call.release.release_id, call.request_id)
            await self._verify(response, call)
        except EvidenceMismatch as error:
            self.metrics.mismatch.inc()
            log.error("evidence does not hold: %s", error.where, extra={"fields": {"http.request.id": call.request_id}})
            raise
        return response

    async def _find(self, request: AnswerRequest, call: Call) -> Findings:
        """Run the pipeline under the request's deadline."""
        inputs = {
            "retriever": {"query": request.question, "retrieval": request.retrieval, "filters": dict(request.filters)},
            "reader": {"query": request.question, "top_k": request.top_k},
        }
        token = CALL.set(call)
        try:
            async with asyncio.timeout(call.remaining_sec()):
                outputs = await self.pipeline.run_async(inputs, include_outputs_from={"retriever", "reader"})
        except TimeoutError:
            raise QuarryError(ErrorCode.DEADLINE_EXCEEDED) from None
        except Exception as error:
            raise _cause(error) from error
        finally:
            CALL.reset(token)
        return _findings(outputs)

    async def _verify(self, response: AnswerResponse, call: Call) -> None:
        wanted = answers.ranges(response)
        texts: list[DocumentText | None] = []
        for first in range(0, len(wanted), MAX_RANGES):  # one call, unless there are very many citations
            texts += await call.texts(wanted[first : first + MAX_RANGES])
        answers.verify(response, texts)

    async def missing(self) -> list[str]:
        """What keeps this gateway from answering."""
        if self.stopping:
            return ["stopping"]
        if (keys := self.authenticator.keys) is not None and not keys.known:
            await keys.refresh()
            if not keys.known:
                return ["token keys"]
        live = self.releases.live
        return [self.releases.refused or "no release is live yet"] if live is None else await live.unfit()


def load_pipeline(path: Path) -> Pipeline:
    """The pipeline of a YAML file, with the two components the gateway speaks to.

    Raises:
        PipelineError: it cannot be read, names modules that are not allowed, or lacks `retriever` or `reader`.
    """
    try:
        pipeline = Pipeline.loads(path.read_text(encoding="utf-8"), allowed_modules=ALLOWED_MODULES)
    except Exception as error:
        raise PipelineError(f"{path.name} is not a pipeline this gateway can load: {type(error).__name__}") from error
    if missing := {"retriever", "reader"} - set(pipeline.graph.nodes):
        raise PipelineError(f"{path.name} has no component named {' or '.join(sorted(missing))}")
    return pipeline


def _cause(error: BaseException) -> QuarryError:
    """The QuarryError a component raised, under whatever Haystack wrapped it in."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, QuarryError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return QuarryError(ErrorCode.INTERNAL)


def _findings(outputs: Mapping[str, Any]) -> Findings:
    reader, retriever = outputs.get("reader", {}), outputs["retriever"]
    documents = reader.get("documents", retriever["documents"])
    degraded = [*retriever.get("degraded", []), *reader.get("degraded", [])]
    return Findings([to_passage(d) for d in documents], reader.get("reading"), tuple(degraded))

