"""Which store a generation is written to: index.db alone, or with its vectors in Pinecone too."""

import os
from pathlib import Path

from quarry_contract.manifests import ManifestError
from quarry_runtime.settings import number

from .store import IndexStore

PINECONE_HOST = "QUARRY_PINECONE_HOST"
WAIT_SEC = 180.0  # QUARRY_PINECONE_WAIT_SEC: for one change or page, with all of its retries and until queries see it


def open_store(folder: Path) -> IndexStore:
    """Open a generation for writing, with Pinecone where QUARRY_PINECONE_HOST names an index.

    Raises:
        ManifestError: index.db cannot be used, or Pinecone's SDK is not installed.
        VectorStoreError: Pinecone cannot be used.
    """
    host = os.environ.get(PINECONE_HOST)
    if not host:
        return IndexStore(folder)
    try:
        from .pinecone_store import PineconeStore
    except ImportError:
        raise ManifestError(f"{PINECONE_HOST} is set and Pinecone's SDK is not installed: install quarry-ingestion[pinecone]") from None
    return PineconeStore(folder, host, call_sec=number("QUARRY_PINECONE_WAIT_SEC", WAIT_SEC, 1, 3_600))
