"""index.db: its schema works, a reader cannot write and sees one version, and its digest tells contents apart, not histories."""

import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest

from quarry_contract.index_store import INDEX_DATABASE, SCHEMA, connect, content_digest, graph_sizes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / INDEX_DATABASE
    connect(path, writing=True).executescript(SCHEMA)
    return path


def put(path: Path, document_id: str, text: str, principals: str = '["*"]') -> None:
    """A document of one passage, in one transaction; what it held before goes."""
    writer = connect(path, writing=True)
    writer.execute("BEGIN IMMEDIATE")
    [revision] = writer.execute("UPDATE state SET revision = revision + 1 RETURNING revision").fetchone()
    gone = [row for (row,) in writer.execute("SELECT row FROM passages WHERE document_id = ?", (document_id,))]
    writer.executemany("INSERT INTO removed VALUES (?, ?)", [(row, revision) for row in gone])
    writer.executemany("DELETE FROM vectors WHERE row = ?", [(row,) for row in gone])
    writer.execute("DELETE FROM passages WHERE document_id = ?", (document_id,))
    values = (document_id, f"v-{text}", "t", document_id, "text/plain", text, "[]", "[]", "{}", principals, revision)
    writer.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    passage = (f"{document_id}/{text}", document_id, 0, len(text), text, None, None, revision)
    [row] = writer.execute('INSERT INTO passages(passage_id, document_id, start, "end", text, page, section, revision) '
                           "VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING row", passage).fetchone()  # fmt: skip
    writer.execute("INSERT INTO vectors VALUES (?, ?)", (row, text.encode()))
    writer.execute("COMMIT")
    writer.close()


def test_equal_contents_have_equal_digests_whatever_came_before(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    connect(other, writing=True).executescript(SCHEMA)
    for document_id, text in (("a", "one"), ("b", "two"), ("a", "three")):
        put(path, document_id, text)
    for document_id, text in (("b", "two"), ("a", "three")):
        put(other, document_id, text)
    digest = content_digest(connect(path))
    assert digest == content_digest(connect(other))
    put(other, "a", "three", '["group:x"]')
    assert content_digest(connect(other)) != digest


def test_a_reader_sees_one_version_while_it_reads_and_cannot_write(path: Path) -> None:
    put(path, "a", "one")
    reader = connect(path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT revision FROM state").fetchone() == (1,)
    put(path, "a", "two")
    assert reader.execute("SELECT text FROM passages").fetchall() == [("one",)]
    reader.execute("COMMIT")
    assert reader.execute("SELECT row, text, revision FROM passages").fetchall() == [(2, "two", 2)]
    assert reader.execute("SELECT row, revision FROM removed").fetchall() == [(1, 2)]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM passages")


def test_a_graph_takes_the_same_sizes_however_often_it_grows() -> None:
    at_once = graph_sizes(0, 60_000)
    assert at_once[0] == 1 and all(after - size == max(1, size // 50) for size, after in pairwise(at_once))
    bit_by_bit, size = [], 0
    for rows in range(0, 60_000, 777):
        bit_by_bit += (grown := graph_sizes(size, rows))
        size = grown[-1] if grown else size
        assert size <= rows <= size + max(1, size // 50)
    assert bit_by_bit == at_once[: len(bit_by_bit)] and bit_by_bit[-1] > 50_000
    assert graph_sizes(1_003, 1_025) == [1_017], "what came off the ladder gets on it again"
