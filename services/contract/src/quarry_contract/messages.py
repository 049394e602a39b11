"""What travels between client, gateway, retriever and reader.

Offsets count characters (Unicode code points). Model services carry these as `jsonData` in the Seldon Core v1 REST protocol.
"""

from dataclasses import dataclass, field
from typing import Literal

from .codec import Message, Scalar
from .errors import ErrorCode, QuarryError, invalid

Retrieval = Literal["dense", "bm25", "tfidf", "hybrid"]
Mode = Literal["extractive", "generative", "hybrid"]

MAX_QUESTION_CHARS = 2_000
MAX_PASSAGES = 200
MAX_PASSAGE_CHARS = 100_000
MAX_HEADING_CHARS = 1_000
MAX_RANK_WEIGHT = 100
MAX_TOP_K = 100
MAX_RANGES = 200
MAX_FILTERS = 20
MAX_PRINCIPALS = 1_000
MAX_PRINCIPAL_CHARS = 256

HEADER_REQUEST_ID = "X-Request-Id"
HEADER_RELEASE = "X-Quarry-Release"  # the release that answered
HEADER_DEADLINE_MS = "X-Request-Deadline-Ms"  # remaining milliseconds, set anew at every hop


def _check_question(question: str) -> None:
    if not question.strip():
        raise invalid("question is empty")
    if len(question) > MAX_QUESTION_CHARS:
        raise QuarryError(ErrorCode.TOO_LARGE, f"question is longer than {MAX_QUESTION_CHARS} characters")


def _check_principals(principals: tuple[str, ...]) -> None:
    if len(principals) > MAX_PRINCIPALS:
        raise invalid(f"principals holds more than {MAX_PRINCIPALS} entries")
    if not all(0 < len(p) <= MAX_PRINCIPAL_CHARS for p in principals):
        raise invalid(f"a principal must have 1 to {MAX_PRINCIPAL_CHARS} characters")


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise invalid(f"{name} must be from {low} to {high}")


@dataclass(frozen=True)
class ReadPassage(Message):
    """A passage for the reader. `passage_id` comes back in the answers' evidence."""

    passage_id: str
    text: str
    heading: str = ""  # what it stands under, as in "Crane manual, rev. C - 4 Wind": read by models trained with headings, never answered from


@dataclass(frozen=True)
class ReadRequest(Message):
    """Question and passages, in retrieval order.

    Answers are ordered by raw logits, less `rank_weight` for every passage that stands before theirs: what was found
    first is likelier to hold the answer. 0 = the order of the passages says nothing.
    """

    question: str
    passages: tuple[ReadPassage, ...]
    top_k: int = 3
    rank_weight: float = 0.0  # in logits

    def __post_init__(self) -> None:
        _check_question(self.question)
        _check_between("top_k", self.top_k, 1, MAX_TOP_K)
        _check_between("rank_weight", self.rank_weight, 0, MAX_RANK_WEIGHT)
        if not 1 <= len(self.passages) <= MAX_PASSAGES:
            raise invalid(f"passages must hold 1 to {MAX_PASSAGES} entries")
        if any(len(p.text) > MAX_PASSAGE_CHARS for p in self.passages):
            raise QuarryError(ErrorCode.TOO_LARGE, f"a passage is longer than {MAX_PASSAGE_CHARS} characters")
        if any(len(p.heading) > MAX_HEADING_CHARS for p in self.passages):
            raise QuarryError(ErrorCode.TOO_LARGE, f"a heading is longer than {MAX_HEADING_CHARS} characters")
        if len({p.passage_id for p in self.passages}) != len(self.passages):
            raise invalid("two passages have the same passage_id")


@dataclass(frozen=True)
class Evidence(Message):
    """Where an answer stands: `passage.text[start:end]` is the answer's text (up to case and white space for joined duplicates)."""

    passage_id: str
    start: int
    end: int


@dataclass(frozen=True)
class Span(Message):
    """An answer of the reader. `evidence[0]` is exact: its passage's `text[start:end] == text`."""

    text: str
    score: float  # raw start + end logit, comparable across passages of one model
    confidence: float  # calibrated probability that this answer is right, 0 to 1
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class ReadResponse(Message):
    """Answers, best first. `abstained`: the best one does not reach `threshold`; the spans are given nevertheless."""

    spans: tuple[Span, ...]
    abstained: bool
    null_score: float  # raw no-answer logit the spans compete with
    threshold: float  # the confidence below which this model version abstains
    tokens_read: int
    model: str  # name and version, as in models:/reader/3


@dataclass(frozen=True)
class Passage(Message):
    """A chunk of one document version: `canonical[start:end] == text`."""

    passage_id: str
    document_id: str
    version: str  # SHA-256 of the document's bytes
    title: str
    start: int
    end: int
    text: str
    page: int | None = None  # 1-based, for formats that have pages
    section: str | None = None  # nearest heading
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredPassage(Message):
    """A passage found, with the score of the retrieval that found it (not comparable between retrievals)."""

    passage: Passage
    score: float


@dataclass(frozen=True)
class SearchQuery(Message):
    """A client's search (POST /v1/search). `filters`: metadata field -> value, or list of values of which one must match.

    document_id, title, section and page may be filtered too.
    """

    question: str
    top_k: int = 5
    retrieval: Retrieval = "hybrid"
    filters: dict[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_question(self.question)
        _check_between("top_k", self.top_k, 1, MAX_TOP_K)
        if len(self.filters) > MAX_FILTERS:
            raise invalid(f"filters holds more than {MAX_FILTERS} fields")


@dataclass(frozen=True)
class SearchRequest(SearchQuery):
    """What the gateway asks the retriever: a query, and who asks. A passage is found only by one of its document's principals.

    `principals` come from the caller's verified token, never from the caller; everyone has "*" besides.
    """

    principals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_principals(self.principals)


@dataclass(frozen=True)
class SearchResponse(Message):
    """Passages, best first. `degraded` names what was missing, e.g. `dense` when only BM25 answered."""

    passages: tuple[ScoredPassage, ...]
    generation: str
    model: str
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextRange(Message):
    """Characters `start` to `end` of a document's canonical text; `version` None = the one indexed."""

    document_id: str
    start: int
    end: int
    version: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise invalid("start and end must be 0 <= start <= end")


@dataclass(frozen=True)
class DocumentRequest(Message):
    """Asks the retriever for exact words of documents, for a caller with these principals."""

    ranges: tuple[TextRange, ...]
    principals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_principals(self.principals)
        if not 1 <= len(self.ranges) <= MAX_RANGES:
            raise invalid(f"ranges must hold 1 to {MAX_RANGES} entries")


@dataclass(frozen=True)
class DocumentText(Message):
    """The words of one range, cut to the document's end."""

    document_id: str
    version: str
    title: str
    length: int  # of the whole canonical text, in characters
    start: int
    end: int
    text: str
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class DocumentResponse(Message):
    """One entry per range asked, in order; None where there is no such document or version, or not for this caller."""

    texts: tuple[DocumentText | None, ...]


@dataclass(frozen=True)
class AnswerRequest(Message):
    """A client's question (POST /v1/answers)."""

    question: str
    mode: Mode = "extractive"
    top_k: int = 3
    retrieval: Retrieval = "hybrid"
    filters: dict[str, Scalar | tuple[Scalar, ...]] = field(default_factory=dict)
    min_confidence: float | None = None  # None = the release's threshold
    stream: bool = False

    def __post_init__(self) -> None:
        SearchQuery(self.question, self.top_k, self.retrieval, self.filters)
        if self.min_confidence is not None:
            _check_between("min_confidence", self.min_confidence, 0, 1)


@dataclass(frozen=True)
class Citation(Message):
    """Where in which document: `text == canonical[start:end]` of that version, always."""

    document_id: str
    version: str
    title: str
    start: int
    end: int
    text: str
    sentence: str  # the sentence(s) around it
    passage_id: str
    page: int | None = None
    section: str | None = None


@dataclass(frozen=True)
class Answer(Message):
    """One answer with all the places it stands; `citations[0]` is the best."""

    text: str
    confidence: float
    score: float
    citations: tuple[Citation, ...]


@dataclass(frozen=True)
class AnswerResponse(Message):
    """Answers, best first; `abstained` with a `reason` and no answers when none is sure enough."""

    answers: tuple[Answer, ...]
    abstained: bool
    release_id: str
    request_id: str
    reason: str | None = None
    degraded: tuple[str, ...] = ()
    passages: tuple[ScoredPassage, ...] = ()  # only when degraded to passages


JobState = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True)
class Job(Message):
    """A change of one document that was asked for (PUT or DELETE /v1/documents/{id}); `done` once every question sees it.

    `code` and `detail` say why it `failed`: the extraction's reason codes, stable; or, while it is `queued`, why a try of it came to nothing
    (`waiting`): it is kept and tried again.
    """

    job_id: str
    document_id: str
    action: Literal["put", "delete", "forget"]
    state: JobState
    created: str  # ISO 8601, UTC
    finished: str | None = None
    version: str | None = None  # SHA-256 of the bytes put
    passages: int | None = None  # the document has now
    code: str | None = None
    detail: str | None = None
