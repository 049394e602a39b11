"""Bind a reader, a retriever and an index generation into one release, with the models fetched from the registry by version."""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quarry_contract.manifests import (
    INDEX_MANIFEST,
    MODEL_MANIFEST,
    RELEASE_MANIFEST,
    IndexManifest,
    ManifestError,
    ModelManifest,
    ReleaseManifest,
    digest_of,
    read_manifest,
    write_manifest,
)

from .registry import fetch


def release(home: Path, reader: str, retriever: str, generation: str) -> ReleaseManifest:
    """Write `home/releases/<id>/release.json` and point `home/current` at it.

    Raises:
        ManifestError: the parts do not belong together, e.g. the index was encoded by another retriever.
    """
    reader_uri, reader_dir = fetch(reader, home)
    retriever_uri, retriever_dir = fetch(retriever, home)
    reader_model = read_manifest(reader_dir / MODEL_MANIFEST, ModelManifest)
    retriever_model = read_manifest(retriever_dir / MODEL_MANIFEST, ModelManifest)
    index = read_manifest(home / "index" / generation / INDEX_MANIFEST, IndexManifest)
    if index.encoder_digest != retriever_model.digest:
        raise ManifestError(f"index {generation} was encoded by another retriever than {retriever_uri}: ingest again with this one")
    if reader_model.calibration is None:
        raise ManifestError(f"{reader_uri} has no calibration")
    parts: dict[str, Any] = {
        "reader": reader_uri,
        "reader_digest": reader_model.digest,
        "retriever": retriever_uri,
        "retriever_digest": retriever_model.digest,
        "index_generation": generation,
        "threshold": reader_model.calibration.threshold,
    }
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = ReleaseManifest(release_id=digest_of(parts)[:12], created=created, chunker=index.chunker, evaluation=reader_model.metrics, **parts)
    folder = home / "releases" / manifest.release_id
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / RELEASE_MANIFEST, manifest)
    pointer = home / "current.tmp"
    pointer.write_text(manifest.release_id)
    pointer.replace(home / "current")
    return manifest


def main() -> None:
    """`python -m quarry_training.release release|fetch`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["release", "fetch"])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--reader", default="models:/reader@champion")
    parser.add_argument("--retriever", default="models:/retriever@champion")
    parser.add_argument("--generation")
    args = parser.parse_args()
    try:
        if args.verb == "fetch":
            uri, folder = fetch(args.retriever, args.home)
            print(json.dumps({"model_version": uri, "folder": str(folder)}))
        else:
            print(json.dumps(release(args.home, args.reader, args.retriever, args.generation).to_dict()))
    except ManifestError as error:
        sys.exit(f"not released: {error}")


if __name__ == "__main__":
    main()
