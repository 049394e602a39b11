"""Every hostile file gives its reason code or its document, and costs nobody else anything."""

import multiprocessing
import random
import resource
from pathlib import Path

import pytest
from quarry_runtime import tiny

from quarry_ingestion.blocks import Document
from quarry_ingestion.extract import Limits, Skipped, extract, preload

from .hostile import SECRET, SPECIAL, Case, cases, write
from .test_ingest import report, run
from .test_serve import serving

MADE = list(cases())
LIMITED = ("too_large", "timeout", "bomb")  # by the limits below; those of a run are larger
REFUSED = [case for case in MADE if case.code and case.code not in LIMITED]
CASES = [*MADE, *(Case(name, b"", code) for name, code in SPECIAL.items())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hostile")
    write(made, MADE)
    preload()
    return made


def limits(seconds: float) -> Limits:
    return Limits(seconds, memory_bytes=300_000_000, input_bytes=6_000_000, output_characters=150_000, unzipped_bytes=5_000_000)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name[:40]))
def test_each_gives_its_reason_or_its_document(folder: Path, case: Case, capfd: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = extract(folder / case.name, folder, limits(case.seconds))
    if isinstance(found, Skipped):
        assert found.code == case.code, found
        assert found.detail and SECRET not in found.detail.lower() and "\n" not in found.detail
    else:
        assert case.format == found.metadata["format"], found
        found.text.encode()
        assert not set(found.text) & set("\x00\r\u202e\u2066"), "nothing unprintable"
        assert all(found.text[start : start + len(heading)] == heading for heading, start in found.sections)
    assert found.source == case.name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000, "kilobytes: the file is the child's to bear"
    assert not multiprocessing.active_children()
    printed = capfd.readouterr()
    assert not printed.out and not printed.err, "parsers tell nobody what they saw"


def test_the_next_good_document_is_read(folder: Path) -> None:
    for name in ("stream-bomb.pdf", "recursive.eml", "pipe.txt", "entities.docx"):
        assert isinstance(extract(folder / name, folder, limits(60)), Skipped)
        good = extract(folder / "good.md", folder, limits(60))
        assert isinstance(good, Document) and good.text == "Good\n\nThe wall stands."


def test_words_survive_odd_encodings(folder: Path) -> None:
    for name in ("utf-16-le.txt", "utf-16-be.txt", "utf-16-no-mark.txt", "utf-32.txt", "utf-32-be.md", "surrogates.txt", "invalid-utf-8.txt", "override.txt"):
        found = extract(folder / name, folder)
        assert isinstance(found, Document) and "Müller hört es." in found.text, name
    for name in ("charset.eml", "no-boundary.eml", "same-boundary.eml", "addresses.eml", "owner-password.pdf", "wide.csv"):
        found = extract(folder / name, folder)
        assert isinstance(found, Document) and SECRET in found.text, name


def test_there_are_enough_of_them_and_of_every_kind() -> None:
    refused = {case.name: case.code for case in CASES if case.code}
    assert len(refused) >= 130 and len({case.data for case in MADE if case.code}) >= 100
    codes = {"empty", "no_text", "unsupported", "mislabelled", "not_text", "encrypted", "damaged", "bomb", "too_large", "timeout", "unreadable"}
    assert set(refused.values()) == codes, "all that the README names but `crashed`, which no known file gives"
    assert sum(SECRET.encode() in case.data for case in MADE) > 50, "in plain sight; others hold it compressed or encrypted"


def test_a_run_and_the_upload_service_say_why_and_print_no_word_of_them(tmp_path: Path) -> None:
    choose = random.Random(4)
    first = {case.code: case for case in REFUSED}
    chosen = [*first.values(), *choose.sample([case for case in REFUSED if case not in first.values()], 54)]
    (tmp_path / "docs").mkdir()
    tiny.encoder(tmp_path / "model", ["wall"], dimension=4)
    write(tmp_path / "docs", chosen)
    done = run(tmp_path / "docs", tmp_path / "home", tmp_path / "model")
    told = report(done)
    skipped = {entry["source"]: entry["code"] for entry in told["skipped"]}
    assert (told["documents"], skipped) == (1, {case.name.replace("\n", "\\n"): case.code for case in chosen} | {"sparse.txt": "too_large"})
    assert len(skipped) > 60 and SECRET not in done.stdout + done.stderr and not done.stderr
    with serving(tmp_path / "home") as served:
        for number, case in enumerate(first.values()):
            suffix = Path(case.name).suffix
            ended = served.ended(served.put(f"{number}{suffix}", case.data))
            assert (ended.state, ended.code) == ("failed", case.code), case.name
        log = served.stop()
    assert log.count("job finished") == len(first) and SECRET not in log and "Traceback" not in log
