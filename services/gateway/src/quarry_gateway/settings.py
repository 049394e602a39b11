"""Everything the gateway can be told, read once from the environment."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

PREFIX = "QUARRY_GATEWAY_"


@dataclass(frozen=True)
class Settings:
    """Units are in the names."""

    host: str = "127.0.0.1"
    port: int = 8080
    reader_url: str = "http://127.0.0.1:9001"
    retriever_url: str = "http://127.0.0.1:9002"
    release: Path = Path("release.json")
    routes: Path | None = None  # a routing table, watched; instead of the three above
    pipeline: Path = Path(__file__).parent / "pipelines" / "extractive.yaml"
    deadline_ms: int = 8_000
    deadline_max_ms: int = 25_000  # under API Gateway's 29 s
    max_body_bytes: int = 64_000
    lame_duck_sec: float = 0.0
    drain_timeout_sec: int = 30

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the QUARRY_GATEWAY_ variables _HOST, _PORT, _READER_URL, _RETRIEVER_URL, _RELEASE, _ROUTES, _PIPELINE, _DEADLINE_MS,
        _DEADLINE_MAX_MS, _MAX_BODY_BYTES, _LAME_DUCK_SEC.

        Raises:
            SystemExit: a value is out of range.
        """
        text = os.environ.get
        return cls(
            text(f"{PREFIX}HOST", cls.host),
            int(_number("PORT", cls.port, 1, 65_535)),
            text(f"{PREFIX}READER_URL", cls.reader_url).rstrip("/"),
            text(f"{PREFIX}RETRIEVER_URL", cls.retriever_url).rstrip("/"),
            Path(text(f"{PREFIX}RELEASE", str(cls.release))),
            Path(routes) if (routes := text(f"{PREFIX}ROUTES")) else None,
            Path(text(f"{PREFIX}PIPELINE", str(cls.pipeline))),
            int(_number("DEADLINE_MS", cls.deadline_ms, 1, 600_000)),
            int(_number("DEADLINE_MAX_MS", cls.deadline_max_ms, 1, 600_000)),
            int(_number("MAX_BODY_BYTES", cls.max_body_bytes, 1_000, 100_000_000)),
            _number("LAME_DUCK_SEC", cls.lame_duck_sec, 0, 300),
        )


def _number(name: str, default: float, low: float, high: float) -> float:
    text = os.environ.get(PREFIX + name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        sys.exit(f"{PREFIX}{name} must be a number from {low:g} to {high:g}")
    return value
