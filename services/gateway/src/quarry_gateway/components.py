"""Haystack components that call our Seldon services. They stand in the pipeline YAML and mix with any other component."""

import asyncio
from typing import Any

from haystack import Document, component
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import MAX_HEADING_CHARS, Passage, ReadPassage, ReadRequest, ReadResponse, ScoredPassage, SearchQuery

from .upstream import CALL

# The reader being away costs the answer, not the request: passages are still of use.
DEGRADES = {ErrorCode.UPSTREAM_FAILED, ErrorCode.NOT_READY}


def to_document(scored: ScoredPassage) -> Document:
    """A passage as Haystack's Document; `meta` holds the whole passage."""
    return Document(id=scored.passage.passage_id, content=scored.passage.text, score=scored.score, meta=scored.passage.to_dict())


def to_passage(document: Document) -> ScoredPassage:
    """And back. Raises QuarryError (`internal`) when a component in between did not keep the passage."""
    try:
        return ScoredPassage(Passage.from_dict(document.meta), float(document.score or 0.0))
    except QuarryError as error:
        raise QuarryError(ErrorCode.INTERNAL, "the pipeline lost a passage's coordinates") from error


def heading(document: Document) -> str:
    """Title and section a passage stands under."""
    return " - ".join(dict.fromkeys(str(document.meta[k]) for k in ("title", "section") if document.meta.get(k)))[:MAX_HEADING_CHARS]


@component
class SeldonRetriever:
    """Question to passages, by the retriever service. `depth` passages are fetched."""

    def __init__(self, depth: int = 5) -> None:
        self.depth = depth

    @component.output_types(documents=list[Document], generation=str, degraded=list[str])
    async def run_async(self, query: str, retrieval: str = "hybrid", filters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the retriever.

        Raises:
            QuarryError: as Call.search.
        """
        call = CALL.get()
        asked = SearchQuery(query, self.depth, retrieval, filters or {})  # type: ignore[arg-type] # checked when it came in
        found = await call.search(asked)
        return {"documents": [to_document(p) for p in found.passages], "generation": found.generation, "degraded": list(found.degraded)}

    @component.output_types(documents=list[Document], generation=str, degraded=list[str])
    def run(self, query: str, retrieval: str = "hybrid", filters: dict[str, Any] | None = None) -> dict[str, Any]:
        """The same, outside an event loop."""
        return asyncio.run(self.run_async(query, retrieval, filters))


@component
class SeldonReader:
    """Passages to spans, by the reader service. `reading` is None when the reader is away or there was nothing to read.

    `rank_weight` is how many logits a passage found earlier is believed more (contract: ReadRequest).
    """

    def __init__(self, rank_weight: float = 0.3) -> None:
        self.rank_weight = rank_weight

    @component.output_types(documents=list[Document], reading=ReadResponse | None, degraded=list[str])
    async def run_async(self, query: str, documents: list[Document], top_k: int = 3) -> dict[str, Any]:
        """Ask the reader.

        Raises:
            QuarryError: as Call.read, but for the codes in DEGRADES.
        """
        call = CALL.get()
        if not documents:
            return {"documents": [], "reading": None, "degraded": []}
        request = ReadRequest(query, tuple(ReadPassage(d.id, d.content or "", heading(d)) for d in documents), top_k, self.rank_weight)
        try:
            reading = await call.read(request)
        except QuarryError as error:
            if error.code not in DEGRADES:
                raise
            return {"documents": documents, "reading": None, "degraded": ["reader"]}
        return {"documents": documents, "reading": reading, "degraded": []}

    @component.output_types(documents=list[Document], reading=ReadResponse | None, degraded=list[str])
    def run(self, query: str, documents: list[Document], top_k: int = 3) -> dict[str, Any]:
        """The same, outside an event loop."""
        return asyncio.run(self.run_async(query, documents, top_k))
