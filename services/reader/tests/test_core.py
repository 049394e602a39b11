import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quarry_contract.errors import ErrorCode, QuarryError
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError
from quarry_contract.messages import ReadPassage, ReadRequest

from quarry_reader.core import Reader, ReaderSettings

from .test_windows import TRICKY


@pytest.fixture(scope="module")
def reader(artefact: Path) -> Any:
    made = Reader.load(ReaderSettings(artefact, "models:/reader/3", runners=2))
    yield made
    made.close()


async def read(reader: Reader, question: str, *texts: str, top_k: int = 3) -> Any:
    passages = tuple(ReadPassage(f"p{i}", t) for i, t in enumerate(texts))
    return await reader.read(ReadRequest(question, passages, top_k), time.monotonic() + 20)


async def test_the_best_answer_over_all_passages_comes_first(reader: Reader) -> None:
    reply = await read(reader, "who", "the gamma is in", "the alpha", "beta")
    assert [s.text for s in reply.spans] == ["alpha", "beta", "gamma"]
    assert [s.evidence[0].passage_id for s in reply.spans] == ["p1", "p2", "p0"]
    assert reply.spans[0].score == pytest.approx(18)
    assert reply.null_score == pytest.approx(2)
    assert not reply.abstained
    assert reply.model == "models:/reader/3"


async def test_it_abstains_when_nothing_beats_no_answer(reader: Reader) -> None:
    reply = await read(reader, "who", "the is in the", "in")
    assert reply.abstained
    assert reply.spans[0].confidence < reply.threshold


async def test_an_answer_deep_in_a_long_passage_is_found_exactly(reader: Reader) -> None:
    text = "the is in " * 400 + "ALPHA" + " in the" * 300
    reply = await read(reader, "who", text)
    best = reply.spans[0].evidence[0]
    assert (reply.spans[0].text, text[best.start : best.end]) == ("ALPHA", "ALPHA")
    assert len(reply.spans[0].evidence) == 1, "windows that share it give one answer"


async def test_a_long_request_does_not_hold_up_a_short_one(reader: Reader) -> None:
    long = asyncio.ensure_future(read(reader, "who", *["the is in " * 3_000] * 4, "beta"))
    await asyncio.sleep(0)
    assert reader.scheduler.queued_tokens == 0, "the loop is free while the long one is still being tokenised"
    assert (await read(reader, "who", "alpha")).spans[0].text == "alpha"
    assert (await long).spans[0].text == "beta"


async def test_passages_without_words_are_an_abstention(reader: Reader) -> None:
    reply = await read(reader, "who", "", "\x00")
    assert (reply.spans, reply.abstained, reply.tokens_read) == ((), True, 0)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TRICKY, min_size=1, max_size=4), word=st.sampled_from(["alpha", "beta", ""]))
def test_every_span_is_exactly_its_passages_text(reader: Reader, texts: list[str], word: str) -> None:
    texts = [*texts, f"{texts[0]} {word} {texts[-1]}"]
    reply = asyncio.run(read(reader, "who is", *texts, top_k=10))
    for span in reply.spans:
        first = span.evidence[0]
        assert texts[int(first.passage_id[1:])][first.start : first.end] == span.text
        for e in span.evidence:
            assert 0 <= e.start < e.end <= len(texts[int(e.passage_id[1:])])


async def test_a_passed_deadline_costs_nothing(reader: Reader) -> None:
    with pytest.raises(QuarryError) as late:
        await reader.read(ReadRequest("who", (ReadPassage("a", "alpha"),)), time.monotonic() - 1)
    assert late.value.code is ErrorCode.DEADLINE_EXCEEDED


def broken(artefact: Path, folder: Path, change: Any) -> Path:
    shutil.copytree(artefact, folder)
    manifest = json.loads((folder / MODEL_MANIFEST).read_text())
    change(folder, manifest)
    if (folder / MODEL_MANIFEST).exists() and manifest:
        (folder / MODEL_MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_an_uncalibrated_reader_is_refused(artefact: Path, tmp_path: Path) -> None:
    folder = broken(artefact, tmp_path / "m", lambda _, m: m.pop("calibration"))
    with pytest.raises(ManifestError, match="no calibration"):
        Reader.load(ReaderSettings(folder))
