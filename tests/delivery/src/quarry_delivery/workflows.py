"""GitHub's workflow files as they are read here: jobs, steps, and the text a pin's comment stands in."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CLONE = Path(__file__).resolve().parents[4]
PINNED = re.compile(r"^\s*(?:- )?uses: (?P<action>[\w./-]+)@(?P<commit>[0-9a-f]{40}) # v\d+(\.\d+){2}(?:\s|$)")
LOCAL = "./"
INSTALLED = {".git", ".tools", ".venv", "node_modules"}


@dataclass(frozen=True)
class Workflow:
    """One file. `on` is what YAML 1.1 reads as true."""

    name: str
    text: str
    content: dict[Any, Any]

    @property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """By id, in the file's order."""
        return dict(self.content["jobs"])

    @property
    def triggers(self) -> dict[str, Any]:
        """What starts it."""
        return dict(self.content[True])

    def steps(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(job, index, step) of every step."""
        for job, told in self.jobs.items():
            for index, step in enumerate(told.get("steps", [])):
                yield job, index, step


def read(root: Path = CLONE) -> list[Workflow]:
    """All workflows of a clone."""
    found = []
    for path in sorted((root / ".github/workflows").glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        found.append(Workflow(path.stem, text, yaml.safe_load(text)))
    return found


def files_named(file: str) -> list[Path]:
    """The clone's files of that name; not among what is installed in it, which are hundreds of thousands of files to look through."""
    found = []
    for folder, below, files in os.walk(CLONE):
        below[:] = sorted(set(below) - INSTALLED)
        found += [Path(folder, file)] if file in files else []
    return found
