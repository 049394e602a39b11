"""The stack on one machine: MLflow, ingestion, gateway, and one retriever and reader per release, as processes in their own environments.

    stack.py up [NAME...]     start what is not running of mlflow, ingestion and gateway (with the live release); finish a switch that was broken off
    stack.py down [NAME...]   stop all, or these of mlflow, ingestion, retriever, reader, gateway; requests in flight are answered first
    stack.py promote ID       make a release live; a running gateway is switched without a pause
    stack.py canary ID SHARE MIRROR   have a release answer a share of the callers, and a share of the others' questions for comparison; 0 0 ends it
    stack.py rollback         make the release live that was live before
    stack.py follow           wait until the running retriever answers from all that was ingested so far
    stack.py status | releases
    stack.py url NAME         where it answers
    stack.py live reader|retriever|retriever-dir    of the live release

State (pids, logs, models, index, registry, releases) lives under QUARRY_HOME. Where the gateway wants tokens, QUARRY_TOKEN
is the one to ask it with. Needs the contract's environment only.
"""

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable

import history
from processes import HOME, RUN, all_running, alone, ensure, running, stop, url
from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.manifests import ManifestError
from quarry_contract.releases import index_dir, known_releases, model_dir, read_release, release_path
from switching import FOLLOW_TIMEOUT_SEC, canary, promote, retire, rollback, serve, table_now

from services import PORTS, mlflow


def live() -> str:
    """The live release's id.

    Raises:
        SystemExit: nothing was released yet.
    """
    ids = history.releases(HOME)
    if not ids:
        sys.exit("nothing is released yet: run `make demo`, or `make train` and `make ingest`, first")
    return ids[-1]


def up(names: list[str]) -> None:
    """Start MLflow, and ingestion and the gateway on the live release."""
    identity = live() if not names or "gateway" in names else None
    if not names or "mlflow" in names:
        ensure([mlflow()])
    if identity is not None:
        serve(identity)
        retire(identity)
    for process in all_running():
        if identity is not None or process.name in names:
            print(f"{process.name:22} ready at {url(process.port)}")


def down(names: list[str]) -> None:
    """The gateway first, so that nobody asks what is gone."""
    for kind in ("gateway", "ingestion", "reader", "retriever", "mlflow"):
        if not names or kind in names:
            stop(p for p in all_running() if p.name.partition("-")[0] == kind)


def follow(_: list[str]) -> None:
    """Wait for the live retriever; when none runs there is nothing to wait for.

    Raises:
        SystemExit: it does not catch up.
    """
    table = table_now()
    if table is None or running(f"retriever-{table.live}") is None:
        return
    generation = read_release(release_path(HOME, table.live)).index_generation
    with contextlib.closing(connect(index_dir(HOME, generation) / INDEX_DATABASE)) as database:
        [wanted] = database.execute("SELECT revision FROM state").fetchone()
    until = time.monotonic() + FOLLOW_TIMEOUT_SEC
    while time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(table.releases[table.live].retriever_url + "/metadata", timeout=5) as reply:
            if int(json.load(reply)["custom"]["revision"]) >= wanted:
                return
        time.sleep(0.1)
    sys.exit(f"the retriever does not follow the index: see {RUN / f'retriever-{table.live}.log'}")


def status(_: list[str]) -> None:
    """What runs, and where."""
    for process in all_running():
        print(f"{process.name:22} running at {url(process.port)}")
    if stopped := [kind for kind in PORTS if not any(p.name.partition("-")[0] == kind for p in all_running())]:
        print(f"not running: {', '.join(stopped)}")


def releases(_: list[str]) -> None:
    """All releases, the live one marked."""
    now = history.releases(HOME)[-1:]
    for m in known_releases(HOME):
        print(f"{'*' if [m.release_id] == now else ' '} {m.release_id}  {m.created}  {m.reader}, {m.retriever}, index {m.index_generation}")


def address(names: list[str]) -> None:
    """Where a service answers; of reader and retriever, the live one's.

    Raises:
        SystemExit: no release is served.
    """
    [name] = names
    if name in ("mlflow", "gateway"):
        print(url(PORTS[name]))
        return
    table = table_now()
    if table is None or running(f"{name}-{table.live}") is None:
        sys.exit(f"no {name} runs: `make up` starts it")
    route = table.releases[table.live]
    print(route.reader_url if name == "reader" else route.retriever_url)


def part(names: list[str]) -> None:
    """A part of the live release; the registry's champion, and no folder, when nothing is live yet."""
    [name] = names
    ids = history.releases(HOME)
    manifest = read_release(release_path(HOME, ids[-1])) if ids else None
    if name == "retriever-dir":
        print(model_dir(HOME, manifest.retriever) if manifest else "")
    elif manifest is None:
        print(f"models:/{name}@champion")
    else:
        print(manifest.reader if name == "reader" else manifest.retriever)


CHANGING: dict[str, Callable[[list[str]], None]] = {"up": up, "down": down, "promote": promote, "canary": canary, "rollback": rollback}
ASKING: dict[str, Callable[[list[str]], None]] = {"follow": follow, "status": status, "releases": releases, "url": address, "live": part}
NAMES = {"up": {"mlflow", "gateway"}, "down": set(PORTS), "url": set(PORTS), "live": {"reader", "retriever", "retriever-dir"}}


def main() -> None:
    """Entry point."""
    verb, *names = sys.argv[1:] or ["status"]
    if verb not in CHANGING | ASKING or (verb in ("url", "live") and len(names) != 1):
        sys.exit(__doc__)
    if verb in NAMES and (unknown := set(names) - NAMES[verb]):
        sys.exit(f"no such name: {', '.join(sorted(unknown))}; there are {', '.join(sorted(NAMES[verb]))}")
    try:
        if verb in ASKING:
            ASKING[verb](names)
        else:
            with alone():
                CHANGING[verb](names)
    except ManifestError as error:
        sys.exit(f"{verb}: {error}")


if __name__ == "__main__":
    main()
