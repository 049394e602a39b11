"""What the DAG's tasks do, without Airflow: which command is called, and what of its report is worth keeping. Each may be done again at any time."""

import logging
from collections import Counter
from typing import Any

from .commands import CommandError, run
from .settings import Settings

log = logging.getLogger(__name__)
NAMES_LOGGED = 100
COUNTS = ("generation", "revision", "documents", "passages", "added", "updated", "removed", "unchanged", "encoded", "seconds")
BAD_INPUT = 2


class Refused(Exception):
    """Another try would end the same; the message says why."""


def collect(settings: Settings) -> dict[str, Any]:
    """How much the source holds, and a digest that changes when there is something to ingest.

    Raises:
        CommandError: it cannot be listed.
    """
    found = run((*settings.ingestion, "--list", settings.source, "--home", settings.home))[1]
    return {"items": found["items"], "digest": found["digest"]}


def index(settings: Settings) -> dict[str, Any]:
    """Bring the index to what the source holds; counts, the digest of the content, and how many documents were refused, by reason.

    Raises:
        CommandError: the source or the index cannot be used. What was done stays, and is not done again.
    """
    report = run((*settings.ingestion, settings.source, "--home", settings.home, "--model-dir", settings.model_dir))[1]
    for skipped in report["skipped"][:NAMES_LOGGED]:
        log.warning("refused: %s: %s", skipped["code"], skipped["source"])
    if len(report["skipped"]) > NAMES_LOGGED:
        log.warning("refused: %d more", len(report["skipped"]) - NAMES_LOGGED)
    digests = run((*settings.ingestion, "--digest", "--home", settings.home))[1]["digests"]
    refused = dict(Counter(skipped["code"] for skipped in report["skipped"]))
    return {name: report[name] for name in COUNTS} | {"digest": digests[report["generation"]], "refused": refused}


def evaluate(settings: Settings, generation: str) -> dict[str, Any]:
    """Ask the index the known questions.

    Raises:
        Refused: fewer find their documents than the floor allows.
        CommandError: it cannot be measured.
    """
    options = ["--index", f"{settings.home}/index/{generation}", "--model-dir", settings.model_dir, "--floor", str(settings.floor)]
    principals = ["--principals", *settings.principals] if settings.principals else []
    code, report = run((*settings.recall, settings.questions, *options, *principals), accept=(0, 1))
    told = {"asked": report["asked"], "recall": report["recall"], "floor": report["floor"]}
    if code == 1:
        about = f"recall {told['recall']} of {told['asked']} questions is under the floor {told['floor']}: no release is triggered"
        raise Refused(f"{about}. Not found: {', '.join(report['missing'])}")
    return told


def release(settings: Settings, digest: str) -> dict[str, Any]:
    """Start the release pipeline for this content of the index, unless it was started for it already.

    Raises:
        Refused: the pipeline does not take these inputs.
        CommandError: Kubeflow cannot be reached, or refuses.
    """
    inputs = ["--set", *settings.inputs] if settings.inputs else []
    try:
        made = run((*settings.kubeflow, "submit", settings.pipeline, "--host", settings.kfp_host, "--once", digest, *inputs))[1]
    except CommandError as error:
        if error.code == BAD_INPUT:
            raise Refused(str(error)) from error
        raise
    return {"pipeline": settings.pipeline, "run": made["run"], "version": made["version"]}
