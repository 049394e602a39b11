"""Spans of passages to answers of documents, each checked against the document's own words. No web framework here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.messages import (
    Answer,
    AnswerRequest,
    AnswerResponse,
    Citation,
    DocumentText,
    Evidence,
    Passage,
    ReadResponse,
    ScoredPassage,
    Span,
    TextRange,
)

# Not the end of a sentence: titles, references and the abbreviations of technical English.
_ABBREVIATIONS = r"[A-Z]|mr|mrs|ms|dr|prof|no|nos|fig|figs|cl|sec|ref|rev|ext|approx|incl|max|min|vs|etc|e\.g|i\.e|st|ltd|co|inc"
_ABBREVIATION = re.compile(rf"\b(?:{_ABBREVIATIONS})\.$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"""[.!?…。！？]["'”’)\]]*\s+(?=[^a-z\s])|\n+""")


@dataclass(frozen=True)
class Findings:
    """What a pipeline run gave."""

    passages: Sequence[ScoredPassage]
    reading: ReadResponse | None
    degraded: tuple[str, ...]


class EvidenceMismatch(QuarryError):
    """A citation's words are not the document's: never to be sent. `where` names it for the log, without its words."""

    def __init__(self, where: str) -> None:
        super().__init__(ErrorCode.INTERNAL)
        self.where = where


class EvidenceGone(Exception):
    """A cited document is not there any more in the version that was found, or not for this caller: nothing is wrong, ask again."""


def compose(request: AnswerRequest, findings: Findings, threshold: float, release_id: str, request_id: str) -> AnswerResponse:
    """The reply: answers at or above the threshold, or an abstention with its reason.

    When the best-ranked span is not sure enough, none is shown: the threshold was fitted on best spans, and a lower
    one being surer only says that its own passage is clear about something, not that it answers the question.

    Raises:
        EvidenceMismatch: the reader cites words that its passage does not have.
    """
    passages = {p.passage.passage_id: p.passage for p in findings.passages}
    sure = request.min_confidence if request.min_confidence is not None else threshold
    spans = findings.reading.spans if findings.reading else ()
    shown_spans = [s for s in spans[: request.top_k] if spans[0].confidence >= sure and s.confidence >= sure]
    answers = tuple(_answer(span, passages) for span in shown_spans)
    reason = None if answers else _reason(findings)
    shown = tuple(findings.passages[: request.top_k]) if "reader" in findings.degraded else ()
    return AnswerResponse(answers, not answers, release_id, request_id, reason, findings.degraded, shown)


def _reason(findings: Findings) -> str:
    if "reader" in findings.degraded:
        return "reader_unavailable"
    return "not_confident" if findings.passages else "no_passages"


def _answer(span: Span, passages: dict[str, Passage]) -> Answer:
    citations: dict[tuple[str, int, int], Citation] = {}
    for evidence in span.evidence:
        citation = _citation(evidence, passages)
        # Overlapping passages show the same place twice.
        citations.setdefault((citation.document_id, citation.start, citation.end), citation)
    first = next(iter(citations.values()), None)
    if first is None or first.text != span.text:
        raise EvidenceMismatch("the reader's answer is not the text of its first evidence")
    return Answer(span.text, span.confidence, span.score, tuple(citations.values()))


def _citation(evidence: Evidence, passages: dict[str, Passage]) -> Citation:
    passage = passages.get(evidence.passage_id)
    if passage is None or not 0 <= evidence.start < evidence.end <= len(passage.text):
        raise EvidenceMismatch(f"the reader cites {evidence.start}-{evidence.end} of a passage that does not have it")
    a, b = sentence(passage.text, evidence.start, evidence.end)
    return Citation(
        passage.document_id,
        passage.version,
        passage.title,
        passage.start + evidence.start,
        passage.start + evidence.end,
        passage.text[evidence.start : evidence.end],
        passage.text[a:b],
        passage.passage_id,
        passage.page,
        passage.section,
    )


def sentence(text: str, start: int, end: int) -> tuple[int, int]:
    """Bounds of the sentence, or sentences, around text[start:end]."""
    stops = [m.end() for m in _SENTENCE_END.finditer(text) if "\n" in m.group() or not _ABBREVIATION.search(text, max(0, m.start() - 8), m.start() + 1)]
    first = max((s for s in stops if s <= start), default=0)
    last = min((s for s in stops if s >= end), default=len(text))
    while last > end and text[last - 1].isspace():
        last -= 1
    return first, last


def citations(response: AnswerResponse) -> list[Citation]:
    """All citations, in order."""
    return [c for a in response.answers for c in a.citations]


def quoted(response: AnswerResponse) -> list[Citation | Passage]:
    """All that is shown of documents: citations in their order, then the passages that a reply without a reader gives."""
    return [*citations(response), *(p.passage for p in response.passages)]


def ranges(response: AnswerResponse) -> tuple[TextRange, ...]:
    """What to fetch to verify a reply."""
    return tuple(TextRange(c.document_id, c.start, c.end, c.version) for c in quoted(response))


def verify(response: AnswerResponse, texts: Sequence[DocumentText | None]) -> None:
    """Check all that is shown against the canonical text of its document's version, and that the caller may still read it.

    Raises:
        EvidenceMismatch: some of it is not there word for word.
        EvidenceGone: a document went, changed or was hidden from the caller since it was searched.
    """
    cited = quoted(response)
    if len(texts) != len(cited):
        raise EvidenceMismatch("the retriever did not give every cited range")
    for citation, found in zip(cited, texts, strict=True):
        place = (citation.document_id, citation.version, citation.start, citation.end, citation.text)
        if found is not None and (found.document_id, found.version, found.start, found.end, found.text) != place:
            raise EvidenceMismatch(f"{citation.document_id} {citation.version} {citation.start}-{citation.end}")
    if None in texts:
        raise EvidenceGone
