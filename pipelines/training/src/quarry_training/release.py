"""Bind a reader, a retriever and an index generation into one release, with the models fetched from the registry by version."""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from mlflow.exceptions import MlflowException
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError, ModelManifest, ReleaseManifest, read_manifest
from quarry_contract.releases import bind, index_of

from .registry import fetch


def release(home: Path, reader: str, retriever: str, generation: str | None = None) -> ReleaseManifest:
    """Write `home/releases/<id>/release.json`; `generation` is the retriever's own current one when it is not given.

    Raises:
        ManifestError: the parts do not belong together, e.g. the index was encoded by another retriever.
    """
    reader_uri, _ = fetch(reader, home)
    retriever_uri, retriever_dir = fetch(retriever, home)
    if generation is None:
        digest = read_manifest(retriever_dir / MODEL_MANIFEST, ModelManifest).digest
        generation = index_of(home, digest)
        if generation is None:
            raise ManifestError(f"no index was encoded by {retriever_uri} yet: `make reindex RETRIEVER={retriever_uri}` (or `make ingest` the first documents)")
    return bind(home, reader_uri, retriever_uri, generation, datetime.now(UTC).isoformat(timespec="seconds"))


def main() -> None:
    """`python -m quarry_training.release release|fetch`: the last line printed is JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["release", "fetch"])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--reader", default="models:/reader@champion")
    parser.add_argument("--retriever", default="models:/retriever@champion")
    parser.add_argument("--generation", help="an index generation; by default the retriever's own current one")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    args = parser.parse_args()
    try:
        if args.verb == "fetch":
            uri, folder = fetch(args.retriever, args.home)
            made = json.dumps({"model_version": uri, "folder": str(folder)})
        else:
            made = json.dumps(release(args.home, args.reader, args.retriever, args.generation).to_dict())
        print(made)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(made)
    except (ManifestError, MlflowException) as error:
        sys.exit(f"not released: {error}")


if __name__ == "__main__":
    main()
