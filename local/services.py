"""What runs on one machine: each service's command, port and settings, in its own project's environment."""

import os

from processes import CLONE, HOME, Service, free_port, running, url
from quarry_contract.manifests import ReleaseManifest
from quarry_contract.releases import ROUTING_TABLE, index_dir, model_dir

PORTS = {
    "mlflow": int(os.environ.get("QUARRY_MLFLOW_PORT", "5500")),
    "reader": int(os.environ.get("QUARRY_READER_PORT", "9001")),
    "retriever": int(os.environ.get("QUARRY_RETRIEVER_PORT", "9002")),
    "ingestion": int(os.environ.get("QUARRY_INGESTION_PORT", "9004")),
    "gateway": int(os.environ.get("QUARRY_GATEWAY_PORT", "8080")),
}
TABLE = HOME / ROUTING_TABLE


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
