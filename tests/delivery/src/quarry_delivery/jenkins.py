"""The Jenkinsfile as Jenkins would read it: evaluated by Groovy against the declarative sections (declarative.groovy)."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .workflows import CLONE

PROJECT = CLONE / "tests/delivery"
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")  # starts fast, for a run of a second
GROOVY = PROJECT / "node_modules/npm-groovy-lint/lib/java/groovy"


class RefusedPipeline(Exception):
    """Jenkins would not take it; the message says why."""


@dataclass(frozen=True)
class Node:
    """A section or step: its name, plain arguments, and what stands in it."""

    kind: str
    arguments: list[Any]
    children: list["Node"]

    def of(self, kind: str) -> list["Node"]:
        """The children of that name."""
        return [child for child in self.children if child.kind == kind]

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, in the file's order."""
        yield self
        for child in self.children:
            yield from child.walk()


def missing() -> str | None:
    """Why a Jenkinsfile cannot be read on this machine; None when it can."""
    if shutil.which("java") is None:
        return "there is no java: install the Debian package default-jre-headless"
    return None if GROOVY.is_dir() else "Groovy comes with an npm package: install the Debian package npm, then run `make envs P=tests/delivery`"


def read_all(paths: Sequence[Path]) -> list[Node | RefusedPipeline]:
    """Several pipelines by one Java process; in place of one that is refused, why."""
    jars = ":".join(str(jar) for jar in sorted(GROOVY.rglob("*.jar")))
    command = ["java", *QUICK, "-cp", jars, "groovy.ui.GroovyMain", str(PROJECT / "declarative.groovy"), *map(str, paths)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [_node(one["pipeline"]) if "pipeline" in one else RefusedPipeline(one["refused"]) for one in told]


def _node(told: dict[str, Any]) -> Node:
    return Node(told["kind"], told.get("arguments") or [], [_node(child) for child in told["children"]])
