"""The tables about a real ingest, read back as their readers do."""

import json
import stat
from pathlib import Path

import pytest
from quarry_runtime import tiny

from .test_ingest import command, report, run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inventory")
    tiny.encoder(root / "model", ["crane", "wall"])
    (root / "docs").mkdir()
    for name, text in {"a.md": "# Cranes\n\nIt stops.", "b.md": "# Cranes\n\nIt stops.", "=1+1.txt": "A wall.", "<b>.txt": "A crane. " * 60}.items():
        (root / "docs" / name).write_text(text)
    (root / "docs" / "broken.pdf").write_bytes(b"%PDF-1.4\n")
    report(run(root / "docs", root / "home", root / "model"))
    return root / "home"


def test_every_item_is_in_it_with_what_became_of_it(home: Path, tmp_path: Path) -> None:
    import pandas as pd  # here, for all that is in memory while tests are collected makes every fork of the suite cost more

    said = report(command("--inventory", tmp_path / "out", "--home", home))
    assert (said["documents"], list(said["refused"].values()), said["copies"]) == (4, [1], 1)
    read = pd.read_csv(tmp_path / "out" / "items.csv").set_index("uri")
    assert set(read.index) == {"a.md", "b.md", "'=1+1.txt", "<b>.txt", "broken.pdf"}  # what a spreadsheet would compute is made text
    assert read.loc["<b>.txt", ["words", "passages", "pages"]].tolist() == [120, read.passages.max(), 0]
    assert [read.code.notna()[name] for name in ("a.md", "broken.pdf")] == [False, True]
    assert list(said["refused"]) == [read.code["broken.pdf"]]


def test_the_page_counts_and_escapes(home: Path, tmp_path: Path) -> None:
    import pandas as pd

    report(command("--inventory", tmp_path, "--home", home))
    page = tmp_path / "inventory.html"
    kinds, refused, twice, lengths, months = pd.read_html(page)
    assert kinds.documents.sum() == lengths.documents.sum() == months.documents.sum() == 4
    assert refused.for_example.tolist() == ["broken.pdf"]
    assert twice.which.tolist() == ["a.md, b.md"]
    assert lengths.documents.tolist() == [3, 1, 0, 0, 0]
    assert "<b>" not in page.read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_before_anything_was_ingested_it_says_what_to_do(tmp_path: Path) -> None:
    done = command("--inventory", tmp_path / "out", "--home", tmp_path / "home")
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
    assert "make ingest" in done.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_refused_and_nothing_twice_is_said_so(tmp_path: Path) -> None:
    tiny.encoder(tmp_path / "model", ["crane"])
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("A crane.")
    report(run(tmp_path / "docs", tmp_path / "home", tmp_path / "model"))
    said = report(command("--inventory", tmp_path / "out", "--home", tmp_path / "home"))
    assert json.dumps([said["documents"], said["refused"], said["copies"]]) == "[1, {}, 0]"
    assert (tmp_path / "out" / "inventory.html").read_text().count("<p>none</p>") == 2
