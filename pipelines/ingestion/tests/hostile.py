"""Files that are broken, bent or made to do harm, and what each must give: `python -m tests.hostile FOLDER` writes them.

Every file that can hold a word holds SECRET, which no reason may repeat.
"""

import os
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import hostile_office, hostile_pdf, hostile_text

SECRET = "zebrafinch"


@dataclass(frozen=True)
class Case:
    """A file, and the reason code it must give, or the format of the document it is. `seconds` is the time it may take."""

    name: str
    data: bytes
    code: str | None = None
    format: str | None = None
    seconds: float = 60.0


def cases() -> Iterator[Case]:
    """All that are made of bytes."""
    for module in (hostile_text, hostile_pdf, hostile_office):
        for name, (data, expected, *seconds) in module.made(SECRET).items():
            is_document = expected.startswith("=")
            yield Case(name, data, None if is_document else expected, expected[1:] if is_document else None, *seconds)


# Made of something else than bytes, all but the last two no regular files.
SPECIAL = {
    "pipe.txt": "unreadable",
    "socket.txt": "unreadable",
    "link.txt": "unreadable",
    "link-to-device.txt": "unreadable",
    "loop.txt": "unreadable",
    "folder.txt": "unreadable",
    "gone.txt": "unreadable",
    "sparse.txt": "too_large",
}


def write(folder: Path, made: Iterable[Case]) -> None:
    """Write every file of `made` and `SPECIAL` into `folder`, and good.md beside them."""
    for case in made:
        (folder / case.name).write_bytes(case.data)
    (folder / "good.md").write_text("# Good\n\nThe wall stands.\n")
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        before = Path.cwd()
        os.chdir(folder)  # a socket's path must be short
        listening.bind("socket.txt")
        os.chdir(before)
    (folder / "link.txt").symlink_to(folder / "good.md")
    (folder / "link-to-device.txt").symlink_to("/dev/zero")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "folder.txt").mkdir()
    with (folder / "sparse.txt").open("wb") as file:
        file.truncate(1_000_000_000)


if __name__ == "__main__":
    write(Path(sys.argv[1]), cases())
