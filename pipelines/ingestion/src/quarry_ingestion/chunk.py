"""Canonical text to passages: whole sentences, table rows and, where they fit, tables, within a token budget, along the document's sections."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby, islice, takewhile

from quarry_contract.manifests import Chunker

from .blocks import Document

CHUNKER = Chunker(name="sentences", version=2, max_tokens=200, overlap_sentences=1)
SMALL_SECTION_TOKENS = 60  # a section shorter than this joins the next one
HEADER_CHARACTERS = 300  # a first row longer than this is no header to repeat

# Not the end of a sentence: initials, titles and the abbreviations of technical English.
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|approx|incl|max|min|no|nos|fig|figs|ref|cl|sec|art|para|dr|mr|mrs|ms|prof|st|ltd|inc|co|rev|vol|p|pp|dept|tel|ext)|\b[A-Z])\.$",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"""(?<=[.!?…。！？])["'”’)\]]*\s+|\n+""")
_TABLE = re.compile(r"^[^\n]++(?:\n[^\n]++)+", re.MULTILINE)  # from the beginnings of lines only: elsewhere, long lines take time by their square

CountTokens = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Chunk:
    """One passage: `document.text[start:end] == text`.

    `section` is the heading it stands under; of a passage that begins inside a table also the table's header row: "Loads | columns: Part, Mass".
    """

    passage_id: str
    document_id: str
    start: int
    end: int
    text: str
    page: int | None
    section: str | None


@dataclass(frozen=True)
class _Sentence:
    """A sentence, or a table row; `table` is where the row's table begins."""

    start: int
    end: int
    tokens: int
    table: int | None = None


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
    tables = _tables(document.text)
    sentences = _whole_rows(document.text, [_Sentence(a, b, n) for (a, b), n in zip(spans, counts, strict=True)], tables, chunker)
    made: list[Chunk] = []
    for run in _sections(document, sentences):
        for start, end in _pieces(document.text, run, chunker):
            made.append(_chunk(document, tables, len(made), start, end, chunker))
    return made


def _tables(text: str) -> list[tuple[int, int]]:
    """(start, end) of every table: rows are the only lines of canonical text that follow each other without a blank line."""
    return [m.span() for m in _TABLE.finditer(text)]


def _whole_rows(text: str, sentences: Sequence[_Sentence], tables: Sequence[tuple[int, int]], chunker: Chunker) -> list[_Sentence]:
    """Join the sentences of a table row, unless the row alone is over the budget (a whole page laid out in one cell)."""
    made: list[_Sentence] = []
    for row, members in groupby(sentences, key=lambda s: _row(text, tables, s.start)):
        found = list(members)
        tokens = sum(s.tokens for s in found)
        if row is None:
            made += found
        elif tokens <= chunker.max_tokens:
            made.append(_Sentence(found[0].start, found[-1].end, tokens, row[0]))
        else:
            made += [replace(s, table=row[0]) for s in found]
    return made


def _row(text: str, tables: Sequence[tuple[int, int]], position: int) -> tuple[int, int] | None:
    """(start of the table, start of the row) at `position`, if it is in a table."""
    index = bisect_right(tables, position, key=lambda t: t[0])
    if not index or position >= tables[index - 1][1]:
        return None
    return tables[index - 1][0], text.rfind("\n", 0, position) + 1


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
        end, used = _fill(run, begin, target, chunker)
        yield from _within(text, run[begin].start, run[end - 1].end, used, chunker)
        if end >= len(run):
            return
        # Repeat the last sentences, unless that would bring no progress or they are rows of a table that is told whole.
        repeated = 0 if _ends_table(run, end) or end - begin <= chunker.overlap_sentences else chunker.overlap_sentences
        begin = max(begin + 1, end - repeated)


def _fill(run: Sequence[_Sentence], begin: int, target: int, chunker: Chunker) -> tuple[int, int]:
    """(end, tokens) of the piece that begins at `begin`: about `target` tokens, and a table that fits the budget is not cut."""
    end, used = begin, 0
    while end < len(run):
        table = _table_from(run, end)
        tokens = sum(s.tokens for s in table)
        whole = bool(table) and tokens <= chunker.max_tokens
        if whole and used + tokens <= chunker.max_tokens:
            used, end = used + tokens, end + len(table)
            continue
        if (whole and used >= SMALL_SECTION_TOKENS) or (end > begin and used + run[end].tokens > target):
            break
        used, end = used + run[end].tokens, end + 1
    return end, used


def _ends_table(run: Sequence[_Sentence], end: int) -> bool:
    last = run[end - 1].table
    return last is not None and run[end].table != last


def _table_from(run: Sequence[_Sentence], at: int) -> list[_Sentence]:
    """The rows of the table that begins at `at`; none where none begins."""
    table = run[at].table
    return list(takewhile(lambda s: s.table == table, islice(run, at, None))) if table is not None and run[at].start == table else []


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


def _chunk(document: Document, tables: Sequence[tuple[int, int]], number: int, start: int, end: int, chunker: Chunker) -> Chunk:
    identity = f"{document.document_id}\n{document.version}\n{chunker.name}/{chunker.version}/{chunker.max_tokens}/{chunker.overlap_sentences}\n{number}"
    page = _at(document.pages, start)
    section = " | ".join(filter(None, (_section(document, start), _columns(document.text, tables, start))))
    return Chunk(
        sha256(identity.encode()).hexdigest()[:24],
        document.document_id,
        start,
        end,
        document.text[start:end],
        page[0] if page else None,
        section or None,
    )


def _columns(text: str, tables: Sequence[tuple[int, int]], start: int) -> str | None:
    """The header row of the table that a passage begins in the middle of: its text has it not, and a row says little without it."""
    row = _row(text, tables, start)
    if row is None or row[1] == row[0]:
        return None
    header = text[row[0] : text.index("\n", row[0])]
    if " | " not in header or len(header) > HEADER_CHARACTERS:
        return None
    return "columns: " + ", ".join(cell for cell in map(str.strip, header.split("|")) if cell)


def _at(marks: Sequence[tuple[int, int]], position: int) -> tuple[int, int] | None:
    index = bisect_right(marks, position, key=lambda mark: mark[1])
    return marks[index - 1] if index else None


def _section(document: Document, start: int) -> str | None:
    """The heading a passage stands under; one that begins with a heading is named by it."""
    index = bisect_right(document.sections, start, key=lambda section: section[1])
    return document.sections[index - 1][0] if index else None
