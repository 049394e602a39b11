import json
import math
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from quarry_contract import manifests, messages, releases
from quarry_contract.codec import Message, decode, loads
from quarry_contract.errors import BY_CODE, ErrorCode, QuarryError
from quarry_contract.manifests import ManifestError, ModelManifest, digest_file, read_manifest, verify_files, write_manifest

from .make_golden import EXAMPLES, GOLDEN

MESSAGES: list[type[Message]] = list(
    dict.fromkeys(c for m in (messages, manifests, releases) for c in vars(m).values() if isinstance(c, type) and issubclass(c, Message) and c is not Message)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters()) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ROUTE = releases.Route("a.json", "http://a", "http://b")
ROUTES = releases.RoutingTable("a", {"a": ROUTE, "b": ROUTE}, "b", 0.5, 0.1)
ODD = [None, True, 0, -1, 1, 3.0, 2.5, 1e300, 10**400, math.nan, math.inf, "", "a", "\ud800", "x" * 50_000, [], [None], {}, {"": 0}, {"\ud800": {}}, 10**18]
GONE = object()


def inside(value: Any) -> Iterator[Message]:
    """Every message in it, itself too."""
    if isinstance(value, Message):
        yield value
        value = vars(value)
    if isinstance(value, dict):
        value = tuple(value.values())
    for part in value if isinstance(value, tuple) else ():
        yield from inside(part)


GOOD = {type(m): m.to_dict() for example in (*EXAMPLES.values(), ROUTES) for m in inside(example)}


def changed(good: Any, to: Any) -> Iterator[Any]:
    """`good` with one of its parts, or the whole, changed to this; or without the part."""
    yield to
    places = good.items() if isinstance(good, dict) else enumerate(good) if isinstance(good, list) else ()
    for place, part in places:
        for new in changed(part, to):
            made = dict(good) if isinstance(good, dict) else dict(enumerate(good))
            if new is GONE:
                del made[place]
            else:
                made[place] = new
            yield made if isinstance(good, dict) else list(made.values())


def attempt(cls: type[Message], body: Any) -> None:
    """A message, or our error."""
    try:
        decode(cls, body)
    except QuarryError as error:
        assert error.code in (ErrorCode.INVALID_REQUEST, ErrorCode.TOO_LARGE)
        error.detail.encode("utf-8")


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_messages_are_their_golden_files_both_ways(name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert EXAMPLES[name].to_dict() == golden
    assert type(EXAMPLES[name]).from_dict(golden) == EXAMPLES[name]


def test_there_are_no_other_golden_files() -> None:
    assert {p.stem for p in GOLDEN.glob("*.json")} == {*EXAMPLES, "problem", "separators"}


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda c: c.__name__)
def test_decoding_a_message_with_anything_odd_in_it_gives_a_message_or_our_error(cls: type[Message]) -> None:
    assert decode(cls, GOOD[cls])
    for odd in (*ODD, GONE):
        for body in changed(GOOD[cls], odd):
            attempt(cls, body)


# One draw is put in every place of every message: what costs time is to draw.
@settings(max_examples=100, deadline=None)
@given(st.lists(JSON, min_size=1, max_size=3))
def test_decoding_anything_gives_a_message_or_our_error(values: list[Any]) -> None:
    for cls in MESSAGES:
        for body in (*changed(GOOD[cls], values[0]), dict(zip(GOOD[cls], cycle(values)))):
            try:
                attempt(cls, body)
            except Exception:
                note(f"{cls.__name__}: {body!r}")
                raise


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda t: json.dumps(t).encode()))
def test_parsing_anything_gives_json_or_our_error(body: bytes) -> None:
    try:
        loads(body)
    except QuarryError as error:
        assert error.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize("body", [b"", b"  ", b"NaN", b"-Infinity", b"[" * 200_000, b"\xff", b"{'a'}", b'{"a":1}x', b"9" * 5000])
def test_what_is_not_acceptable_json_is_refused(body: bytes) -> None:
    with pytest.raises(QuarryError):
        loads(body)


MARK = "do-not-echo"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"question": MARK, "top_k": MARK}, "top_k must be a whole number"),
        ({"question": MARK, "top_k": True}, "top_k must be a whole number"),
        ({"question": MARK, "top_k": 2.5}, "top_k must be a whole number"),
        ({"question": MARK, "top_k": 0}, "top_k must be from 1 to 100"),
        ({"question": MARK, "top_k": 10**400}, "top_k"),
        ({"question": MARK, MARK: 1}, "unknown field"),
        ({"question": [MARK]}, "question must be a string"),
        ({"question": MARK + "\ud800"}, "lone surrogate"),
        ({"question": MARK, "retrieval": MARK}, "retrieval must be one of dense, bm25, tfidf, hybrid"),
        ({"question": MARK, "filters": {MARK: None}}, "wrong type"),
        ({"question": MARK, "filters": [MARK]}, "filters must be an object"),
        ({}, "question is missing"),
        ([], "must be a JSON object"),
        ({"question": " \n"}, "question is empty"),
    ],
)
def test_errors_name_the_field_and_never_the_value(data: Any, says: str) -> None:
    with pytest.raises(QuarryError) as error:
        messages.SearchRequest.from_dict(data)
    assert says in error.value.detail
    assert MARK not in error.value.detail


def test_whole_numbers_may_come_as_doubles() -> None:
    """protobuf's Struct, and so SeldonClient, knows no other numbers."""
    assert messages.SearchRequest.from_dict({"question": "q", "top_k": 3.0}).top_k == 3


def test_error_codes_are_unique_and_problems_complete() -> None:
    assert len(BY_CODE) == len(ErrorCode)
    problem = QuarryError(ErrorCode.OVERLOADED, "the queue is full", 2).to_problem("r-3")
    assert problem == json.loads((GOLDEN / "problem.json").read_text())


def test_the_table_in_the_documents_is_the_table_in_the_code() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [tuple(c.strip(" `") for c in line.strip("|").split("|")) for line in text.splitlines() if line.startswith("| `")]
    assert [(code, int(status), title) for code, status, title, *_ in rows] == [(c.code, c.status, c.title) for c in ErrorCode]


# --- manifests ---


def _model(folder: Path) -> ModelManifest:
    (folder / "model.onnx").write_bytes(b"weights")
    manifest = ModelManifest("reader", "reader", "b", "now", {"model.onnx": digest_file(folder / "model.onnx")}, 384)
    write_manifest(folder / "model.json", manifest)
    return manifest


def test_manifests_are_read_as_written(tmp_path: Path) -> None:
    manifest = _model(tmp_path)
    assert read_manifest(tmp_path / "model.json", ModelManifest) == manifest
    verify_files(tmp_path, manifest.files)
    assert not list(tmp_path.glob("*.tmp"))


def test_the_digest_tells_contents_not_times(tmp_path: Path) -> None:
    manifest = _model(tmp_path)
    later = ModelManifest.from_dict({**manifest.to_dict(), "created": "later"})
    other = ModelManifest.from_dict({**manifest.to_dict(), "files": {"model.onnx": {"sha256": "0" * 64, "bytes": 7}}})
    assert later.digest == manifest.digest != other.digest


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"name": 3}', b"\xff\xfe"])
def test_bad_manifests_are_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"model\.json"):
        read_manifest(tmp_path / "model.json", ModelManifest)


def test_damage_links_and_paths_outside_are_refused(tmp_path: Path) -> None:
    manifest = _model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"weightS")
    with pytest.raises(ManifestError, match="digest"):
        verify_files(tmp_path, manifest.files)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ManifestError, match="missing"):
        verify_files(tmp_path, manifest.files)
    (tmp_path / "real").write_bytes(b"weights")
    (tmp_path / "model.onnx").symlink_to(tmp_path / "real")
    with pytest.raises(ManifestError, match="plain file"):
        verify_files(tmp_path, manifest.files)
    # The file is there and whole: only its place is wrong.
    (tmp_path / "sub").mkdir()
    assert (tmp_path / "sub" / "../real").read_bytes() == b"weights"
    with pytest.raises(ManifestError, match="plain file"):
        verify_files(tmp_path / "sub", {"../real": digest_file(tmp_path / "real")})
