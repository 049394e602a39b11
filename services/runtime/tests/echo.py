"""A model written for the tests of the server; alone in its file, for processes that need nothing else of the tests."""

import asyncio
from typing import Any

from quarry_contract.errors import ErrorCode, QuarryError

SECRET = "the-secret-word"


class Echo:
    """Answers with what it was asked; `sleep` seconds first; may fail."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def predict(self, data: Any, deadline: float) -> dict[str, Any]:
        if isinstance(data, dict) and data.get("crash"):
            raise RuntimeError(SECRET)
        if isinstance(data, dict) and data.get("full"):
            raise QuarryError(ErrorCode.OVERLOADED, "full", retry_after_sec=7)
        try:
            await asyncio.sleep(data.get("sleep", 0) if isinstance(data, dict) else 0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return {"echo": data}

    def metadata(self) -> dict[str, Any]:
        return {"name": "echo", "versions": ["1"]}

    def close(self) -> None:
        pass
