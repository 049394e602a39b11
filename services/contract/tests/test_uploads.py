"""Names in headers and paths: written and read alike, and nothing odd gets through."""

import pytest

from quarry_contract.errors import QuarryError
from quarry_contract.uploads import check_document_id, decode_principals, encode_principals


@pytest.mark.parametrize("principals", [(), ("*",), ("group:a,b", "group:site team", "user:Jörg 😀", "user:100%", "user:a@b.example|x")])
def test_principals_are_read_as_written(principals: tuple[str, ...]) -> None:
    text = encode_principals(principals)
    assert text.isascii()
    assert text.isprintable()
    assert decode_principals(text) == tuple(sorted(principals))


def test_principals_as_people_write_them() -> None:
    assert decode_principals(" user:b ,group:a,user:b") == ("group:a", "user:b")


@pytest.mark.parametrize("text", [",", "a,,b", "user:\xfc", "user:%ff", "user:%00", "user:a%0d%0aX: y", "x" * 257, ",".join(f"u{n}" for n in range(1_001))])
def test_principals_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(QuarryError) as error:
        decode_principals(text)
    assert error.value.code.code == "invalid_request"
    assert len(error.value.detail) < 150, "the input is not repeated"


@pytest.mark.parametrize("good", ["a", "rules/ms 014.pdf", "…/Jörg, 100 %.txt", ".hidden", "a..b", "x" * 512])
def test_ids_that_documents_have(good: str) -> None:
    assert check_document_id(good) == good


@pytest.mark.parametrize("bad", ["", "..", "a/../b", "./a", "/a", "a/", "a//b", "a\nb", "a\x7f", "a\ufffd", "\ud800", "x" * 513])
def test_ids_that_are_refused(bad: str) -> None:
    with pytest.raises(QuarryError, match="a document's id"):
        check_document_id(bad)
