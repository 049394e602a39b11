"""Canonical text to passages: whole sentences and table rows, within a token budget, along the document's sections."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from quarry_contract.manifests import Chunker

from .blocks import Document

CHUNKER = Chunker(name="sentences", version=1, max_tokens=200, overlap_sentences=1)
SMALL_SECTION_TOKENS = 60  # a section shorter than this joins the next one

# Not the end of a sentence: initials, titles and the abbreviations of technical English.
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|incl|max|min|no|nos|fig|figs|ref|cl|sec|art|para|dr|mr|mrs|ms|prof|st|ltd|inc|co|rev|vol|p|pp|dept|tel|ext)|\b[A-Z])\.$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"""(?<=[.!?…。！？])["'”’)\]]*\s+|\n+""")

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Chunk:
    """One passage: `document.text[start:end] == text`."""

    passage_id: str
    document_id: str
    start: int
    end: int
    text: str
    page: int | None
    section: str | None


@dataclass(frozen=True)
class _Sentence:
    start: int
    end: int
    tokens: int


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence or table row, white space around them left out."""
    spans = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if "\n" not in match.group() and _goes_on(text, start, match.start(), match.end()):
            continue
        spans.append((start, match.start() + len(match.group().rstrip())))
        start = match.end()
    spans.append((start, len(text)))
    trimmed = (_trim(text, a, b) for a, b in spans)
    return [(a, b) for a, b in trimmed if a < b]


def _goes_on(text: str, start: int, end: int, following: int) -> bool:
    """Whether the stop at `end` is an abbreviation, a clause number, or followed by small letters."""
    before = text[max(start, end - 12) : end]
    after = text[following : following + 1]
    return after.islower() or bool(_ABBREVIATION.search(before)) or bool(re.fullmatch(r"\d+(\.\d+)*\.", text[start:end].strip()))


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def chunk(document: Document, count_tokens: CountTokens, chunker: Chunker = CHUNKER) -> list[Chunk]:
    """Cut a document. The same document, chunker and tokenizer give the same passages."""
    spans = sentence_spans(document.text)
    counts = count_tokens([document.text[a:b] for a, b in spans])
    sentences = [_Sentence(a, b, n) for (a, b), n in zip(spans, counts, strict=True)]
    made: list[Chunk] = []
    for run in _sections(document, sentences):
        for start, end in _pieces(document.text, run, chunker):
            made.append(_chunk(document, len(made), start, end, chunker))
    return made


def _sections(document: Document, sentences: Sequence[_Sentence]) -> Iterator[list[_Sentence]]:
    """Runs of sentences that belong together: a section each, small ones joined to what follows."""
    starts = sorted(start for _, start in document.sections)
    run: list[_Sentence] = []
    for sentence in sentences:
        index = bisect_right(starts, sentence.start)
        begins_section = index > 0 and starts[index - 1] == sentence.start
        if run and begins_section and sum(s.tokens for s in run) >= SMALL_SECTION_TOKENS:
            yield run
            run = []
        run.append(sentence)
    if run:
        yield run


def _pieces(text: str, run: Sequence[_Sentence], chunker: Chunker) -> Iterator[tuple[int, int]]:
    """(start, end) within the token budget, balanced so that the last is no stub, each beginning with the end of the one before."""
    total = sum(s.tokens for s in run)
    parts = max(1, -(-total // chunker.max_tokens))  # marks and invisible characters alone have no tokens
    target = min(chunker.max_tokens, -(-total // parts) + 10)
    begin = 0
    while begin < len(run):
        end, used = begin, 0
        while end < len(run) and (end == begin or used + run[end].tokens <= target):
            used += run[end].tokens
            end += 1
        yield from _within(text, run[begin].start, run[end - 1].end, used, chunker)
        if end >= len(run):
            return
        # Repeat the last sentences, unless that would bring no progress.
        begin = max(begin + 1, end - chunker.overlap_sentences) if end - begin > chunker.overlap_sentences else end


def _within(text: str, start: int, end: int, tokens: int, chunker: Chunker) -> Iterator[tuple[int, int]]:
    """A single sentence over the budget is cut at blanks, by characters in proportion."""
    if tokens <= 2 * chunker.max_tokens:
        yield start, end
        return
    width = max(1, (end - start) * chunker.max_tokens // tokens)
    while start < end:
        stop = min(end, start + width)
        blank = text.rfind(" ", start + 1, stop) if stop < end else -1
        stop = blank if blank > start else stop
        trimmed = _trim(text, start, stop)
        if trimmed[0] < trimmed[1]:
            yield trimmed
        start = stop


def _chunk(document: Document, number: int, start: int, end: int, chunker: Chunker) -> Chunk:
    identity = f"{document.document_id}\n{document.version}\n{chunker.name}/{chunker.version}/{chunker.max_tokens}/{chunker.overlap_sentences}\n{number}"
    page = _at(document.pages, start)
    return Chunk(
        sha256(identity.encode()).hexdigest()[:24],
        document.document_id,
        start,
        end,
        document.text[start:end],
        page[0] if page else None,
        _section(document, start),
    )


def _at(marks: Sequence[tuple[int, int]], position: int) -> tuple[int, int] | None:
    index = bisect_right(marks, position, key=lambda mark: mark[1])
    return marks[index - 1] if index else None


def _section(document: Document, start: int) -> str | None:
    """The heading a passage stands under; one that begins with a heading is named by it."""
    index = bisect_right(document.sections, start, key=lambda section: section[1])
    return document.sections[index - 1][0] if index else None
