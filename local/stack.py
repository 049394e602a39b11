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
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import history
from ask import TOKEN
from processes import CLONE, HOME, RUN, Process, Service, all_running, alone, ensure, free_port, running, stop, url
from quarry_contract.index_store import INDEX_DATABASE, connect
from quarry_contract.manifests import ManifestError, ReleaseManifest, write_manifest
from quarry_contract.releases import (
    ROUTING_TABLE,
    Route,
    RoutingTable,
    check_release,
    index_dir,
    known_releases,
    model_dir,
    read_release,
    read_table,
    release_path,
)

PORTS = {
    "mlflow": int(os.environ.get("QUARRY_MLFLOW_PORT", "5500")),
    "reader": int(os.environ.get("QUARRY_READER_PORT", "9001")),
    "retriever": int(os.environ.get("QUARRY_RETRIEVER_PORT", "9002")),
    "ingestion": int(os.environ.get("QUARRY_INGESTION_PORT", "9004")),
    "gateway": int(os.environ.get("QUARRY_GATEWAY_PORT", "8080")),
}
TABLE = HOME / ROUTING_TABLE
FOLLOW_TIMEOUT_SEC = 20
DRAIN_TIMEOUT_SEC = 30  # the gateway's longest deadline is 25 s


def python(project: str) -> str:
    """The interpreter of a project's environment."""
    return str(CLONE / project / ".venv" / "bin" / "python")


def mlflow() -> Service:
    """The registry: SQLite and a folder, artefacts served by the server."""
    store = HOME / "mlflow"
    store.mkdir(parents=True, exist_ok=True)
    backend = ["--backend-store-uri", f"sqlite:///{store}/mlflow.db", "--artifacts-destination", str(store / "artefacts")]
    command = [python("pipelines/training"), "-m", "mlflow", "server", *backend, "--host", "127.0.0.1", "--port", str(PORTS["mlflow"]), "--workers", "1"]
    # Without the first, seven job workers start that nothing here uses.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return Service("mlflow", PORTS["mlflow"], "/health", command, quiet)


def gateway() -> Service:
    """The gateway; the routing table tells it the rest. On loopback whoever reaches it may write."""
    settings = {"PORT": str(PORTS["gateway"]), "ROUTES": str(TABLE), "INGESTION_URL": url(PORTS["ingestion"]), "ALLOW_ANONYMOUS_WRITES": "true"}
    return Service("gateway", PORTS["gateway"], "/readyz", [python("services/gateway"), "-m", "quarry_gateway"], prefixed("GATEWAY", settings))


def ingestion() -> Service:
    """Takes uploads and deletions, and works them off in order."""
    command = [python("pipelines/ingestion"), "-m", "quarry_ingestion", "serve", "--home", str(HOME)]
    return Service("ingestion", PORTS["ingestion"], "/readyz", command, {"QUARRY_INGESTION_PORT": str(PORTS["ingestion"])})


def model_service(kind: str, manifest: ReleaseManifest) -> Service:
    """The reader or retriever of one release, on the port it has, or on the first choice, or on a free one."""
    name = f"{kind}-{manifest.release_id}"
    found = running(name)
    port = found.port if found else free_port(PORTS[kind])
    reference = manifest.reader if kind == "reader" else manifest.retriever
    settings = {"MODEL_DIR": str(model_dir(HOME, reference)), "MODEL_REF": reference, "PORT": str(port)}
    if kind == "retriever":
        settings["INDEX_DIR"] = str(index_dir(HOME, manifest.index_generation))
    return Service(name, port, "/health/status", [python(f"services/{kind}"), "-m", f"quarry_{kind}"], prefixed(kind.upper(), settings))


def prefixed(service: str, settings: dict[str, str]) -> dict[str, str]:
    """Environment variables of one service."""
    return {f"QUARRY_{service}_{name}": value for name, value in settings.items()}


def live() -> str:
    """The live release's id.

    Raises:
        SystemExit: nothing was released yet.
    """
    ids = history.releases(HOME)
    if not ids:
        sys.exit("nothing is released yet: run `make demo`, or `make train` and `make ingest`, first")
    return ids[-1]


def others(*ids: str | None) -> list[Process]:
    """Model services of other releases than these."""
    return [p for p in all_running() if (parts := p.name.partition("-"))[1] and parts[2] not in ids]


def gateway_state() -> dict[str, Any] | None:
    """What the running gateway says of its releases; None when none runs."""
    if running("gateway") is not None:
        asked = urllib.request.Request(url(PORTS["gateway"]) + "/v1/releases", headers=TOKEN)
        with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=5) as reply:
            return dict(json.load(reply))
    return None


def serving() -> str | None:
    """The release the running gateway sends requests to; None when no gateway runs."""
    if running("gateway") is None:
        return None
    if state := gateway_state():
        return str(state["live"])
    table = table_now()  # it is starting, or too busy to say
    return table.live if table else None


def table_now() -> RoutingTable | None:
    """The routing table, if there is a good one."""
    with contextlib.suppress(ManifestError):
        return read_table(TABLE)
    return None


def serve(identity: str) -> None:
    """Bring up a release beside what serves and let the gateway switch to it. Run again, it goes on where it was broken off.

    Raises:
        SystemExit: the release cannot be served; what served before still does.
    """
    manifest = check_release(HOME, identity)
    before = serving()
    retire(identity, before)  # what a switch that was broken off has left: at most two pairs at once
    route_to(manifest, lambda route: RoutingTable(identity, {identity: route}), undo=before not in (None, identity))


def route_to(manifest: ReleaseManifest, table_with: Callable[[Route], RoutingTable], undo: bool) -> None:
    """Start a release's services and have the gateway follow the table with their route.

    Raises:
        SystemExit: they do not get ready, or the gateway refuses; with `undo`, the table and what runs are as before.
    """
    old = table_now()
    services = [model_service(kind, manifest) for kind in ("retriever", "reader")]
    new = [service.name for service in services if running(service.name) is None]
    try:
        ensure(services)
        table = table_with(Route(str(release_path(HOME, manifest.release_id)), services[0].url, services[1].url))
        write_manifest(TABLE, table)
        ensure([ingestion(), gateway()])
        wait_followed(table)
    except SystemExit:
        if undo:
            if old is not None:
                write_manifest(TABLE, old)
            stop(found for name in new if (found := running(name)))
        raise


def wait_followed(table: RoutingTable) -> None:
    """Until the gateway sends new requests where the table says.

    Raises:
        SystemExit: it refuses to; its reason is in the message.
    """
    until = time.monotonic() + FOLLOW_TIMEOUT_SEC
    reason = "it does not answer"
    while time.monotonic() < until:
        if state := gateway_state():
            if state["routing"] == table.digest and state["refused"] is None:
                return
            reason = state["refused"] or reason
        time.sleep(0.1)
    sys.exit(f"the gateway does not serve release {table.candidate or table.live}: {reason}")


def retire(*keep: str | None) -> None:
    """Stop the services of all releases but these, once the gateway has no request left for them."""
    until = time.monotonic() + DRAIN_TIMEOUT_SEC
    while others(*keep) and time.monotonic() < until and (state := gateway_state()) and state["draining"]:
        time.sleep(0.1)
    stop(others(*keep))


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


def go_live(verb: str, identity: str) -> None:
    """Switch a running gateway, then write the history."""
    was = history.releases(HOME)[-1:]
    manifest = check_release(HOME, identity)
    served = running("gateway") is not None
    if served:
        serve(identity)
    if was != [identity]:
        history.record(HOME, verb, identity)
    if served:
        retire(identity)
    what = f"{manifest.reader}, {manifest.retriever}, index {manifest.index_generation}, threshold {manifest.threshold:.3f}"
    print(f"release {identity} is live{'' if was != [identity] else ' (as before)'}: {what}")
    if was and was != [identity]:
        print(f"before it was {was[0]}")
    if not served:
        print("no gateway runs: `make up` serves it")


def promote(names: list[str]) -> None:
    """Make a release live."""
    if len(names) != 1:
        sys.exit("say which release: make promote RELEASE=id; `stack.py releases` lists them")
    go_live("promote", names[0])


def canary(names: list[str]) -> None:
    """Try a release beside the live one, or end that.

    Raises:
        SystemExit: nothing is served, or the release cannot be; the live one goes on alone.
    """
    try:
        identity, share, mirror = names[0], float(names[1]), float(names[2])
        if not (0 <= share <= 1 and 0 <= mirror <= 1):
            raise ValueError(names)
    except (IndexError, ValueError):
        sys.exit("say which release, for what share: make canary RELEASE=id SHARE=0.1 [MIRROR=0.1]; shares are from 0 to 1, and SHARE=0 ends it")
    table = table_now()
    if table is None or serving() != table.live:
        sys.exit("no release is served: `make up` first")
    if identity == table.live:
        sys.exit(f"release {identity} is the live one: there is nothing to try")
    manifest, routes = check_release(HOME, identity), {table.live: table.releases[table.live]}
    retire(table.live, table.candidate, identity)
    if share or mirror:
        route_to(manifest, lambda route: RoutingTable(table.live, routes | {identity: route}, identity, share, mirror), undo=True)
        print(f"release {identity} answers {share:.0%} of the callers; {mirror:.0%} of the others' questions are put to it too")
        retire(table.live, identity)
    else:
        write_manifest(TABLE, alone_again := RoutingTable(table.live, routes))
        wait_followed(alone_again)
        retire(table.live)
        print(f"release {table.live} answers everyone")


def rollback(_: list[str]) -> None:
    """Make the release live that was live before.

    Raises:
        SystemExit: there is none.
    """
    ids = history.releases(HOME)
    if len(ids) < 2:
        sys.exit("there is no earlier release to go back to")
    go_live("rollback", ids[-2])


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
