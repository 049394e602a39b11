"""The reader: windows, model, spans. No web framework here."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from quarry_contract.manifests import Calibration, ManifestError, ModelManifest
from quarry_contract.messages import ReadRequest, ReadResponse
from quarry_runtime.scheduler import Scheduler, SchedulerSettings
from quarry_runtime.session import Session, cpus, open_artefact, open_tokenizer
from quarry_runtime.settings import number

from . import spans
from .windows import WindowMaker

SPANS_PER_WINDOW = 5
CHARS_AT_ONCE = 50_000


@dataclass(frozen=True)
class ReaderSettings:
    """Where the model is and how much work is taken."""

    model_dir: Path
    model_ref: str = ""  # as in models:/reader/3; empty = name and digest
    runners: int = 1
    tokens_per_batch: int = 512
    max_queued_tokens: int = 200_000

    @classmethod
    def from_environment(cls) -> "ReaderSettings":
        """Read QUARRY_READER_MODEL_DIR, _MODEL_REF, _RUNNERS, _TOKENS_PER_BATCH, _MAX_QUEUED_TOKENS.

        Raises:
            SystemExit: a number is out of range.
        """
        return cls(
            Path(os.environ.get("QUARRY_READER_MODEL_DIR", "/mnt/models")),
            os.environ.get("QUARRY_READER_MODEL_REF", ""),
            int(number("QUARRY_READER_RUNNERS", cpus(), 1, 256)),
            int(number("QUARRY_READER_TOKENS_PER_BATCH", cls.tokens_per_batch, 1, 65_536)),
            int(number("QUARRY_READER_MAX_QUEUED_TOKENS", cls.max_queued_tokens, 1, 100_000_000)),
        )


class Reader:
    """Answers from passages, by one model."""

    def __init__(self, manifest: ModelManifest, calibration: Calibration, windows: WindowMaker, session: Session, settings: ReaderSettings) -> None:
        self.manifest = manifest
        self._calibration = calibration
        self._windows = windows
        self._name = settings.model_ref or f"{manifest.name}@{manifest.digest[:12]}"
        budgets = SchedulerSettings(settings.runners, settings.tokens_per_batch, max_queued_tokens=settings.max_queued_tokens)
        self.scheduler = Scheduler(session.run, budgets)

    @classmethod
    def load(cls, settings: ReaderSettings) -> "Reader":
        """Open the artefact folder, check it, and run the model once.

        Raises:
            ManifestError: the artefact is not a whole, calibrated reader.
        """
        manifest = open_artefact(settings.model_dir, "reader")
        if manifest.calibration is None:
            raise ManifestError("model.json has no calibration: run the calibrate step before export")
        tokenizer = open_tokenizer(settings.model_dir / "tokenizer.json")
        if manifest.max_tokens < manifest.max_question_tokens + manifest.max_heading_tokens + manifest.stride + 4:
            raise ManifestError("model.json leaves no room for passages: max_tokens is under max_question_tokens + max_heading_tokens + stride + 4")
        windows = WindowMaker(tokenizer, manifest.max_tokens, manifest.stride, manifest.max_question_tokens, manifest.max_heading_tokens)
        session = Session(settings.model_dir / "model.onnx", ["start_logits", "end_logits"])
        try:
            [window] = windows.windows("ready?", ["ready"])
            start, end = session.run([(window.ids, window.types)])
        except Exception as error:
            raise ManifestError("the model does not run on its own tokenizer's tokens") from error
        if start.shape != end.shape or start.shape != (1, len(window.ids)):
            raise ManifestError("the model's logits do not have the shape (batch, tokens)")
        return cls(manifest, manifest.calibration, windows, session, settings)

    async def read(self, request: ReadRequest, deadline: float) -> ReadResponse:
        """The best answers of the request's passages.

        Raises:
            QuarryError: `overloaded`, `deadline_exceeded`, `internal`.
        """
        texts, headings = [p.text for p in request.passages], [p.heading for p in request.passages]
        if sum(map(len, texts + headings)) > CHARS_AT_ONCE:  # long texts take long to tokenise: the others go on meanwhile
            windows = await asyncio.to_thread(self._windows.windows, request.question, texts, headings)
        else:
            windows = self._windows.windows(request.question, texts, headings)
        rows = [(w.ids, w.types) for w in windows]
        outputs = await self.scheduler.submit(rows, deadline) if rows else []
        found = spans.candidates(windows, outputs, texts, self.manifest.max_answer_tokens, max(SPANS_PER_WINDOW, request.top_k))
        best = spans.answers(found, request.passages, self._calibration, request.top_k, request.rank_weight)
        null = min((c.null_score for c in found), default=0.0)
        abstained = not best or best[0].confidence < self._calibration.threshold
        tokens = sum(len(ids) for ids, _ in rows)
        return ReadResponse(tuple(best), abstained, null, self._calibration.threshold, tokens, self._name)

    async def predict(self, data: Any, deadline: float) -> dict[str, Any]:
        """`read`, on JSON."""
        return (await self.read(ReadRequest.from_dict(data), deadline)).to_dict()

    def metadata(self) -> dict[str, Any]:
        """What Seldon's /metadata tells."""
        return {"name": self.manifest.name, "versions": [self._name], "platform": "onnxruntime", "custom": {"digest": self.manifest.digest}}

    def close(self) -> None:
        """Stop the runners."""
        self.scheduler.close()

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        """Prometheus: the scheduler's counters."""
        counters = self.scheduler.counters
        queued = GaugeMetricFamily("quarry_queued_tokens", "Tokens accepted and not yet computed", value=self.scheduler.queued_tokens)
        values = {
            "quarry_batches": ("Batches run", counters.batches),
            "quarry_tokens": ("Tokens computed", counters.real_tokens),
            "quarry_padded_tokens": ("Tokens computed, padding included", counters.padded_tokens),
            "quarry_dropped_tokens": ("Tokens dropped because nobody waited for them", counters.dropped_tokens),
            "quarry_refused_requests": ("Requests refused because the queue was full", counters.refused_requests),
        }
        return [queued, *(CounterMetricFamily(name, text, value=value) for name, (text, value) in values.items())]


def load(registry: CollectorRegistry) -> Reader:
    """For the model server: settings from the environment, metrics into `registry`."""
    reader = Reader.load(ReaderSettings.from_environment())
    registry.register(reader)
    return reader


def deadline_in(seconds: float) -> float:
    """A deadline on the clock `read` uses."""
    return time.monotonic() + seconds
