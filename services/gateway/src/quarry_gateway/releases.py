"""Which release answers. A routing table names it; the switch is one assignment between two requests.

A new release serves only after both of its services said that they are ready and are the release's own. Requests keep the
release they began with for all their hops; its connections are closed after the last of them.

A share of the callers may be answered by a second release, the candidate (a canary): always the same callers, and with a
larger share those and more.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from quarry_contract.manifests import ManifestError, ReleaseManifest
from quarry_contract.releases import Route, RoutingTable, read_release, read_table

from .settings import Settings
from .telemetry import Metrics, log
from .upstream import Upstream

POLL_SEC = 0.2
RETRY_SEC = 1.0
READY_TIMEOUT_SEC = 1.0


class ServedRelease:
    """One release, the connections to its services, and how many requests it has in hand."""

    def __init__(self, manifest: ReleaseManifest, route: Route, observe: Callable[[str, float], None]) -> None:
        self.manifest = manifest
        self.route = route
        self.retriever = Upstream("retriever", route.retriever_url.rstrip("/"), observe)
        self.reader = Upstream("reader", route.reader_url.rstrip("/"), observe)
        self.requests = 0

    async def unfit(self) -> list[str]:
        """What keeps its services from answering for it: not ready, or another model or index than the release's."""
        wanted = {
            self.retriever: {"digest": self.manifest.retriever_digest, "generation": self.manifest.index_generation},
            self.reader: {"digest": self.manifest.reader_digest},
        }
        found = await asyncio.gather(*(upstream.identity(READY_TIMEOUT_SEC) for upstream in wanted))
        reasons = []
        for (upstream, expected), custom in zip(wanted.items(), found, strict=True):
            if custom is None:
                reasons.append(upstream.name)
            elif wrong := [name for name, value in expected.items() if custom.get(name) != value]:
                reasons.append(f"{upstream.name} (another {' and '.join(wrong)} than release {self.manifest.release_id}'s)")
        return reasons

    async def close(self) -> None:
        """Close its connections."""
        await asyncio.gather(self.retriever.close(), self.reader.close())


class Releases:
    """Follows the routing table: requests begin with `live`, or with `candidate`; `draining` are releases that still have some in hand."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises ManifestError when the table, or the live release's manifest, cannot be used."""
        self.live: ServedRelease | None = None
        self.candidate: ServedRelease | None = None
        self.share = 0.0
        self.mirror = 0.0
        self.draining: list[ServedRelease] = []
        self.routing: str | None = None  # digest of the table last followed or refused
        self.refused: str | None = None  # why the table cannot be followed now
        self._settings = settings
        self._metrics = metrics
        self._seen: tuple[int, ...] | None = None
        self._look = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        table = self._table()
        self._open(table, table.live)

    async def start(self) -> None:
        """Try once, then go on watching."""
        self._seen = self._stamp()
        await self._follow()
        self._watching = asyncio.create_task(self._watch())

    def look(self) -> None:
        """Read the table now, changed or not (SIGHUP)."""
        self._look.set()

    def hold(self, caller: str) -> ServedRelease | None:
        """The release for one request of this caller; give it back by `let_go`."""
        chosen = self.live
        if self.candidate is not None and place_of(caller, self.candidate.manifest.release_id) < self.share:
            chosen = self.candidate
        if chosen is not None:
            chosen.requests += 1
        return chosen

    def let_go(self, release: ServedRelease) -> None:
        """The request is over."""
        release.requests -= 1
        self._close_if_over(release)

    async def close(self) -> None:
        """Stop watching and close all connections."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        open_now = [*self.draining, *filter(None, (self.live, self.candidate))]
        await asyncio.gather(*self._closing, *(release.close() for release in open_now))

    async def _watch(self) -> None:
        tried = time.monotonic()
        while True:
            try:
                await asyncio.wait_for(self._look.wait(), POLL_SEC)
            except TimeoutError:
                stamp = self._stamp()
                if stamp == self._seen and not (self.refused and time.monotonic() - tried >= RETRY_SEC):
                    continue
            self._look.clear()
            self._seen = self._stamp()
            await self._follow()
            tried = time.monotonic()

    def _stamp(self) -> tuple[int, ...] | None:
        """What changes when the table is written anew, by rename or in place; links, as in a ConfigMap's mount, are followed."""
        if self._settings.routes is None:
            return None
        try:
            stat = self._settings.routes.stat()
        except OSError:
            return ()
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    async def _follow(self) -> None:
        """Serve what the table says; when that cannot be, say why and go on as before, though never with a candidate it does not name."""
        table = None
        try:
            table = self._table()
            await self._switch(table)
            reason = None
        except ManifestError as error:
            reason = str(error)
        except Exception as error:  # the watch must outlive whatever a table or a service may hold
            log.error("routing failed", exc_info=error)
            reason = "unexpected error"
        if reason is not None and reason != self.refused:
            self._metrics.refused.inc()
            log.warning("routing table not followed: %s", reason, extra={"fields": self._fields(self.live)})
        self.routing, self.refused = table.digest if table else None, reason

    async def _switch(self, table: RoutingTable) -> None:
        live = await self._fit(table, table.live)
        candidate = self.candidate if self.candidate is not None and self._routed(self.candidate, table, table.candidate) else None
        self._serve(live, candidate, table)
        if table.candidate is not None and candidate is None:
            self._serve(live, await self._fit(table, table.candidate), table)

    async def _fit(self, table: RoutingTable, identity: str) -> ServedRelease:
        """The release with this id, as it is served now or opened anew; its services have said that they are its own."""
        for known in (self.live, self.candidate):
            if known is not None and self._routed(known, table, identity):
                return known
        opened = self._open(table, identity)
        if reasons := await opened.unfit():
            await opened.close()
            raise ManifestError(f"release {identity} is not served: not ready: {', '.join(reasons)}")
        return opened

    def _routed(self, release: ServedRelease, table: RoutingTable, identity: str | None) -> bool:
        return release.manifest.release_id == identity and release.route == table.releases[identity]

    def _serve(self, live: ServedRelease, candidate: ServedRelease | None, table: RoutingTable) -> None:
        """From the next request on."""
        before = {release for release in (self.live, self.candidate) if release is not None}
        if (self.live, self.candidate) != (live, candidate):
            log.info("releases are served", extra={"fields": self._fields(live) | {"quarry.candidate": candidate.manifest.release_id if candidate else "none"}})
        self.live, self.candidate = live, candidate
        self.share, self.mirror = (table.share, table.mirror) if candidate else (0.0, 0.0)
        self._metrics.release.clear()
        self._metrics.release.labels(live.manifest.release_id, "live").set(1)
        if candidate is not None:
            self._metrics.release.labels(candidate.manifest.release_id, "candidate").set(1)
        for old in before - {live, candidate}:
            self.draining.append(old)
            self._close_if_over(old)

    def _close_if_over(self, release: ServedRelease) -> None:
        if release in self.draining and release.requests == 0:
            self.draining.remove(release)
            task = asyncio.ensure_future(release.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _table(self) -> RoutingTable:
        settings = self._settings
        if settings.routes is not None:
            return read_table(settings.routes)
        live = read_release(settings.release).release_id
        return RoutingTable(live, {live: Route(str(settings.release.absolute()), settings.retriever_url, settings.reader_url)})

    def _fields(self, release: ServedRelease | None) -> dict[str, str]:
        return {"quarry.release": release.manifest.release_id if release else "none"}

    def _open(self, table: RoutingTable, identity: str) -> ServedRelease:
        route = table.releases[identity]
        folder = self._settings.routes.parent if self._settings.routes is not None else Path()
        manifest = read_release(folder / route.release)
        if manifest.release_id != identity:
            raise ManifestError(f"{route.release} is release {manifest.release_id}, not {identity}")
        return ServedRelease(manifest, route, self._metrics.hop)


def place_of(caller: str, candidate: str) -> float:
    """Where a caller stands between 0 and 1, anew for each candidate, so that it is not always the same who try what is new."""
    return int.from_bytes(hashlib.sha256(f"{candidate}\n{caller}".encode(errors="surrogateescape")).digest()[:6]) / 2**48
