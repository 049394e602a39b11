"""Which store a generation is written to: index.db alone, or with its vectors in Pinecone too."""

import os
from pathlib import Path

from quarry_contract.manifests import ManifestError
from quarry_contract.vector_store import VectorStoreError

from .store import IndexStore

PINECONE_HOST = "QUARRY_PINECONE_HOST"


def open_store(folder: Path) -> IndexStore:
    """Open a generation for writing, with Pinecone where QUARRY_PINECONE_HOST names an index; a change that was stopped there is finished first.

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
    store = PineconeStore(folder, host)
    try:
        store.settle()
    except VectorStoreError:
        store.close()
        raise
    return store
