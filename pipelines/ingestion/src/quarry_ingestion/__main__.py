"""`python -m quarry_ingestion FOLDER|s3://bucket/prefix --home DIR --model-dir DIR`: bring the index up to date with a source; or look after it.

`python -m quarry_ingestion serve --home DIR`: take uploads over HTTP (serve.py).
"""

import argparse
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

from quarry_contract.manifests import ManifestError
from quarry_contract.vector_store import VectorStoreError

from .engine import Engine, Local, open_source
from .forget import READING, forget
from .graphs import tend_graphs
from .pipeline import reindex, sync
from .reconcile import reconcile
from .retention import expire_all
from .sources import SourceError, listing
from .targets import kept, targets_of


def digests(home: Path) -> dict[str, Any]:
    """SHA-256 of what each generation holds: the same for the same documents, whichever way they came.

    Raises:
        ManifestError: one is not whole.
    """
    with targets_of(home) as targets:
        return {"digests": {target.generation: target.store.digest() for target in targets.now()}}


def graphs(home: Path) -> dict[str, Any]:
    """The search graphs, brought up to date where they are stale: the files written.

    Raises:
        ManifestError: an index is not whole.
    """
    with targets_of(home) as targets:
        return {"graphs": tend_graphs(home, (target.store for target in targets.now()))}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for."""
    if args.list is not None:
        return listing(open_source(args.list))
    home: Path = args.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    if args.reconcile:
        return reconcile(home)
    if args.expire:
        return expire_all(home)
    if args.graphs:
        return graphs(home)
    if args.forget is not None:
        return forget(home, args.forget)
    if args.digest:
        return digests(home)
    if args.inventory:
        from .inventory import inventory  # Pandas, which nothing else here needs

        return inventory(home, args.inventory)
    model_dir = kept(home, args.model_dir)
    if args.reindex or args.prepare:
        return reindex(home, model_dir, first=args.prepare)
    return sync(open_source(args.source), home, model_dir, engine(args))


def engine(args: argparse.Namespace) -> Engine:
    """What was chosen."""
    if args.engine == "local":
        return Local(args.home.resolve() / READING)
    from .spark import Spark  # its process starts with the first changed document

    return Spark(args.spark_master)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="quarry_ingestion", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("source", nargs="?", help="a folder, or s3://bucket/prefix")
    what.add_argument("--reindex", action="store_true", help="encode all documents there are for this retriever too, from the texts in the index")
    what.add_argument("--prepare", action="store_true", help="the same, or an empty index where there are no documents yet: retrievers can open it")
    what.add_argument("--reconcile", action="store_true", help="compare ledger and index, repair what differs, report it")
    what.add_argument("--forget", metavar="ID", help="remove every trace of a document, and prove it")
    what.add_argument("--list", metavar="SOURCE", help="how much a source holds, and a digest that changes when there is something to ingest")
    what.add_argument("--expire", action="store_true", help="take out of the index what retention.json says is kept no longer")
    what.add_argument("--graphs", action="store_true", help="bring the saved search graphs up to date, where they are stale")
    what.add_argument("--digest", action="store_true", help="of the content of each generation")
    what.add_argument("--inventory", type=Path, metavar="DIR", help="write tables of what was read and what was not, and why, into this folder")
    parser.add_argument("--home", type=Path, required=True, help="QUARRY_HOME: index and ledger are under it")
    parser.add_argument("--model-dir", type=Path, help="the retriever's artefact folder; only for a source, reindex and prepare")
    parser.add_argument("--engine", choices=("local", "spark"), default="local", help="where a source's changed documents are fetched, extracted and encoded")
    parser.add_argument("--spark-master", help="for spark: local[2], spark://host:7077, yarn, ...; otherwise what Spark's own settings say, or local[*]")
    args = parser.parse_args()
    if (args.source or args.reindex or args.prepare) and args.model_dir is None:
        parser.error("--model-dir is needed")
    return args


def main() -> None:
    """Entry point; the last line of standard output is a JSON report."""
    if sys.argv[1:2] == ["serve"]:
        from .serve import main as serve  # a web server, which nothing else here needs

        serve(sys.argv[2:])
        return
    args = parse()
    try:
        print(json.dumps(run(args), ensure_ascii=False))
    except (SourceError, ManifestError, VectorStoreError) as error:
        fail(str(error))
    except sqlite3.Error as error:
        fail(f"index or ledger in {args.home} cannot be used: {error}")
    except OSError as error:
        fail(f"{error.strerror or 'the disk cannot be written'}: {error.filename or args.home}")


def fail(why: str) -> None:
    """Say it in one line and end."""
    print(f"not ingested: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
