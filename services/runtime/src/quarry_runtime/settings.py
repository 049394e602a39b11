"""What a model server can be told, read once from the environment."""

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """Times in seconds, sizes in bytes."""

    service: str
    host: str = "127.0.0.1"
    port: int = 9000
    max_body_bytes: int = 8_000_000
    deadline_default_sec: float = 25.0
    deadline_max_sec: float = 60.0
    load_timeout_sec: float = 120.0
    lame_duck_sec: float = 0.0  # how long requests are still taken after SIGTERM, while balancers learn of it
    drain_timeout_sec: float = 60.0

    @classmethod
    def from_environment(cls, service: str, prefix: str, port: int) -> "ServerSettings":
        """Read PREFIX_HOST, PREFIX_PORT, PREFIX_MAX_BODY_BYTES, PREFIX_LOAD_TIMEOUT_SEC, PREFIX_LAME_DUCK_SEC.

        Raises:
            SystemExit: a value is not a number in its range.
        """
        return cls(
            service,
            os.environ.get(f"{prefix}_HOST", cls.host),
            int(number(f"{prefix}_PORT", port, 1, 65_535)),
            int(number(f"{prefix}_MAX_BODY_BYTES", cls.max_body_bytes, 1_000, 1_000_000_000)),
            load_timeout_sec=number(f"{prefix}_LOAD_TIMEOUT_SEC", cls.load_timeout_sec, 0.01, 3_600),
            lame_duck_sec=number(f"{prefix}_LAME_DUCK_SEC", cls.lame_duck_sec, 0, 300),
        )


def number(name: str, default: float, low: float, high: float) -> float:
    """A number from the environment.

    Raises:
        SystemExit: it is no number from `low` to `high`.
    """
    text = os.environ.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        sys.exit(f"{name} must be a number from {low:g} to {high:g}")
    return value
