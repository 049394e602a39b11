"""The Pinecone stand-in as a process of its own, and how tests tell it what to do. No imports but Python's own: other projects' tests load this file."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

API_KEY = "standin-key"


@dataclass(frozen=True)
class Standin:
    """A running one."""

    url: str

    def set(self, **settings: Any) -> None:
        """See pinecone_model.Settings."""
        assert "error" not in self._control("POST", settings)

    def requests(self, path: str = "") -> list[dict[str, Any]]:
        """What came in whose path begins with `path`: path, status, bytes, at, fault."""
        return [r for r in self._control("GET")["requests"] if r["path"].startswith(path)]

    def left(self) -> int:
        """How many of the failures asked for have not happened yet."""
        return int(self._control("GET")["left"])

    def reset(self) -> None:
        """Empty, with its first settings."""
        self._control("DELETE")

    def _control(self, method: str, body: Any = None) -> Any:
        with urlopen(Request(f"{self.url}/standin", json.dumps(body or {}).encode(), method=method)) as answer:
            return json.loads(answer.read())


@contextmanager
def standin(dimension: int, metric: str = "dotproduct") -> Iterator[Standin]:
    """Started, and ended after."""
    script = Path(__file__).with_name("pinecone_standin.py")
    command = [sys.executable, str(script), "--dimension", str(dimension), "--metric", metric]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Standin(process.stdout.readline().strip())
        finally:
            process.kill()
