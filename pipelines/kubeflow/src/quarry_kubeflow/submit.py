"""Bring a pipeline to a Kubeflow Pipelines server (API v2beta1): upload it once per content, run it, or schedule it."""

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import yaml
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

EXPERIMENT = "quarry"
WAIT_SEC = 24 * 3600
ENDED_BADLY = ("FAILED", "CANCELING", "CANCELED")


class SubmitError(Exception):
    """The server did not take it; the message says why and what to do."""


@dataclass(frozen=True)
class Target:
    """Where to and as whom. `token_file` holds a bearer token, as Kubernetes projects it into a pod."""

    host: str
    namespace: str | None = None
    token_file: Path | None = None
    service_account: str | None = None


@dataclass(frozen=True)
class Submission:
    """A compiled pipeline with its inputs. `images` names, for each image of the YAML, the one to run, best by digest.

    `once` says what it is run for, such as the digest of an index: a run of the same pipeline, inputs and cause is not started again.
    """

    name: str
    package: Path
    arguments: Mapping[str, Any]
    images: Mapping[str, str] = field(default_factory=dict)
    once: str | None = None


def package(submission: Submission) -> str:
    """The pipeline's YAML with the images put in.

    Raises:
        SubmitError: `images` names an image that no step uses.
    """
    documents = list(yaml.load_all(submission.package.read_text(encoding="utf-8"), yaml.CSafeLoader))
    executors = documents[0]["deploymentSpec"]["executors"].values()
    used = {e["container"]["image"] for e in executors}
    if unknown := set(submission.images) - used:
        raise SubmitError(f"no step of {submission.name} uses {', '.join(sorted(unknown))}; its images are {', '.join(sorted(used))}")
    for executor in executors:
        image = executor["container"]["image"]
        executor["container"]["image"] = submission.images.get(image, image)
    return yaml.safe_dump_all(documents, sort_keys=True)


def submit(submission: Submission, target: Target, schedule: str | None = None) -> dict[str, str]:
    """Run it now, or with `schedule` (cron, six fields, seconds first) again and again; returns the ids.

    The same YAML is uploaded once: its version is named by its digest. A schedule of the same name is replaced.

    Raises:
        SubmitError: the server cannot be reached or refuses.
    """
    content = package(submission)
    with _told(target):
        client = _client(target)
        experiment = client.create_experiment(EXPERIMENT, namespace=target.namespace).experiment_id
        pipeline, version = _upload(client, submission.name, content, target)
        common = {"pipeline_id": pipeline, "version_id": version, "params": dict(submission.arguments), "service_account": target.service_account}
        if schedule is None:
            return {"experiment": experiment, "pipeline": pipeline, "version": version, "run": _run(client, submission, experiment, common)}
        old = _scheduled(client, submission.name, experiment)
        options = {"cron_expression": schedule, "max_concurrency": 1, "no_catchup": True}
        recurring = client.create_recurring_run(experiment, submission.name, **options, **common)
        for earlier in old:  # after the new one is there: a failure in between leaves two, never none
            client.delete_recurring_run(earlier)
        return {"experiment": experiment, "pipeline": pipeline, "version": version, "recurring_run": recurring.recurring_run_id}


def _run(client: Any, submission: Submission, experiment: str, common: Mapping[str, Any]) -> str:
    """The id of a new run; with `once`, of the one there is, unless it ended badly."""
    name = f"{submission.name} {common['version_id'][:12]}"
    if submission.once is not None:
        cause = json.dumps([submission.once, submission.arguments], sort_keys=True)
        name += f" {hashlib.sha256(cause.encode()).hexdigest()[:12]}"
        for run in _pages(client.list_runs, "runs", experiment, filter=_named(name)):
            if run.display_name == name and run.state not in ENDED_BADLY:
                return str(run.run_id)
    return str(client.run_pipeline(experiment, name, **common).run_id)


def upload(name: str, compiled: Path, target: Target) -> dict[str, str]:
    """Only upload it, as submit would; returns the ids.

    Raises:
        SubmitError: the server cannot be reached or refuses.
    """
    with _told(target):
        pipeline, version = _upload(_client(target), name, package(Submission(name, compiled, {})), target)
        return {"pipeline": pipeline, "version": version}


@contextlib.contextmanager
def _told(target: Target) -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        raise SubmitError(f"{target.host} refused ({error.status}): {_reason(error)}") from error
    except HTTPError as error:
        raise SubmitError(f"{target.host} cannot be reached: is the address right, and the token still valid?") from error


def wait(run: str, target: Target, seconds: float = WAIT_SEC) -> str:
    """Wait for the end of a run; returns its state, e.g. SUCCEEDED or FAILED.

    Raises:
        SubmitError: it did not end in time, or the server cannot be reached.
    """
    try:
        return str(_client(target).wait_for_run_completion(run, int(seconds)).state)
    except TimeoutError as error:
        raise SubmitError(f"run {run} did not end within {seconds:g} s; it goes on") from error
    except (ApiException, HTTPError) as error:
        raise SubmitError(f"{target.host} cannot be asked about run {run}") from error


def _client(target: Target) -> Any:
    token = target.token_file.read_text(encoding="utf-8").strip() if target.token_file else None
    # kfp's client asks for half a minute before it gives up; asking once beforehand tells at once what is wrong.
    configuration = kfp_server_api.Configuration(host=target.host)
    header = ("Authorization", f"Bearer {token}") if token else (None, None)
    kfp_server_api.HealthzServiceApi(kfp_server_api.ApiClient(configuration, *header)).healthz_service_get_healthz()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about servers older than version 2
        return kfp.Client(host=target.host, existing_token=token, namespace=target.namespace or "kubeflow")


def _upload(client: Any, name: str, content: str, target: Target) -> tuple[str, str]:
    """(pipeline id, version id) of this content, uploaded unless it is there."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    pipeline = client.get_pipeline_id(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(content, encoding="utf-8")
        if pipeline is None:
            pipeline = client.upload_pipeline(str(path), pipeline_name=name, namespace=target.namespace).pipeline_id
        found = client.list_pipeline_versions(pipeline, filter=_named(digest)).pipeline_versions
        version = found[0] if found else client.upload_pipeline_version(str(path), digest, pipeline_id=pipeline)
    return pipeline, version.pipeline_version_id


def _named(name: str) -> str:
    """The server's filter for what is called so."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _scheduled(client: Any, name: str, experiment: str) -> list[str]:
    """Ids of the schedules of this name."""
    return [r.recurring_run_id for r in _pages(client.list_recurring_runs, "recurring_runs", experiment) if r.display_name == name]


def _pages(listed: Callable[..., Any], field: str, experiment: str, **more: Any) -> Iterator[Any]:
    """Everything that a list of an experiment's holds."""
    token = ""
    while True:
        page = listed(page_token=token, page_size=50, experiment_id=experiment, **more)
        yield from getattr(page, field) or []
        token = page.next_page_token or ""
        if not token:
            return


def _reason(error: ApiException) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def token_file() -> Path | None:
    """QUARRY_KFP_TOKEN_FILE, if set."""
    named = os.environ.get("QUARRY_KFP_TOKEN_FILE")
    return Path(named) if named else None
