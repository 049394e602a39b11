"""Which release the running gateway serves: switched, tried beside the live one, and taken back, by the routing table."""

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import history
from ask import TOKEN
from processes import HOME, Process, all_running, ensure, running, stop, url
from quarry_contract.manifests import ManifestError, ReleaseManifest, write_manifest
from quarry_contract.releases import Route, RoutingTable, check_release, read_table, release_path

from services import PORTS, TABLE, gateway, ingestion, model_service

FOLLOW_TIMEOUT_SEC = 20
DRAIN_TIMEOUT_SEC = 30  # the gateway's longest deadline is 25 s


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
