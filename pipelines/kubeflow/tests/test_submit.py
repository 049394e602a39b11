"""Submitting to a Kubeflow Pipelines server: the real client against a wire-level stand-in (kfp_standin.py)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quarry_kubeflow import __main__ as cli
from quarry_kubeflow.submit import Submission, SubmitError, Target, package, submit, upload, wait

from .kfp_standin import KfpStandIn, serving

SOURCE = Path(cli.__file__).parent
ARGUMENTS = {"data": "s3://quarry/squad.json", "mlflow_uri": "http://mlflow:5000"}
TRAIN = Submission("train-reader", SOURCE / "train_reader.yaml", ARGUMENTS)


@pytest.fixture
def server() -> Iterator[KfpStandIn]:
    with serving(KfpStandIn()) as standin:
        yield standin


def images(standin: KfpStandIn, version: str) -> set[str]:
    return {e["container"]["image"] for e in standin.packages[version][0]["deploymentSpec"]["executors"].values()}


def test_a_run_is_of_the_uploaded_version_with_its_inputs(server: KfpStandIn) -> None:
    made = submit(TRAIN, Target(server.url, service_account="pipeline-runner"))
    run = server.runs[made["run"]]
    assert run["pipeline_version_reference"] == {"pipeline_id": made["pipeline"], "pipeline_version_id": made["version"]}
    assert run["runtime_config"]["parameters"] == ARGUMENTS
    assert run["service_account"] == "pipeline-runner"
    assert server.experiments[made["experiment"]]["display_name"] == "quarry"


def test_the_same_pipeline_is_uploaded_once_and_a_changed_one_is_a_new_version(server: KfpStandIn) -> None:
    first, again = submit(TRAIN, Target(server.url)), submit(TRAIN, Target(server.url))
    assert (first["pipeline"], first["version"]) == (again["pipeline"], again["version"])
    assert first["run"] != again["run"]
    [image] = images(server, first["version"])
    changed = submit(Submission(TRAIN.name, TRAIN.package, ARGUMENTS, {image: "registry.example/quarry/training@sha256:" + "0" * 64}), Target(server.url))
    assert changed["pipeline"] == first["pipeline"]
    assert changed["version"] != first["version"]
    assert images(server, changed["version"]) == {"registry.example/quarry/training@sha256:" + "0" * 64}


def test_a_run_with_a_cause_is_started_once_unless_it_ended_badly(server: KfpStandIn) -> None:
    def run(cause: str, arguments: dict[str, str] = ARGUMENTS) -> str:
        return submit(Submission(TRAIN.name, TRAIN.package, arguments, once=cause), Target(server.url))["run"]

    plain, first = submit(TRAIN, Target(server.url))["run"], run("index-1")
    assert run("index-1") == first
    assert len({plain, first, run("index-2"), run("index-1", ARGUMENTS | {"data": "s3://quarry/other.json"})}) == 4
    server.runs[first]["state"] = "SUCCEEDED"
    assert run("index-1") == first
    server.runs[first]["state"] = "FAILED"
    again = run("index-1")
    assert again != first
    assert run("index-1") == again, "the failed one is on the page before"
    assert len(server.runs) == 5


def test_a_schedule_replaces_the_one_before_and_no_other(server: KfpStandIn) -> None:
    other = submit(Submission("publish-retriever", SOURCE / "publish_retriever.yaml", {"mlflow_uri": "http://m"}), Target(server.url), "0 0 4 * * *")
    submit(TRAIN, Target(server.url), "0 0 2 * * *")
    made = submit(TRAIN, Target(server.url), "0 30 2 * * *")
    assert server.recurring.keys() == {other["recurring_run"], made["recurring_run"]}
    job = server.recurring[made["recurring_run"]]
    assert job["trigger"]["cron_schedule"]["cron"] == "0 30 2 * * *"
    assert (str(job["max_concurrency"]), job["no_catchup"]) == ("1", True)


def test_a_failed_new_schedule_leaves_the_old_one(server: KfpStandIn) -> None:
    made = submit(TRAIN, Target(server.url), "0 0 2 * * *")
    with pytest.raises(SubmitError, match="six fields"):
        submit(TRAIN, Target(server.url), "0 2 * * *")
    assert server.recurring.keys() == {made["recurring_run"]}


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED"])
def test_the_end_of_a_run_is_waited_for(server: KfpStandIn, state: str) -> None:
    server.end_state = state
    made = submit(TRAIN, Target(server.url))
    assert wait(made["run"], Target(server.url), 60) == state


def test_the_token_is_sent_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with serving(KfpStandIn(token="right")) as standin:
        token.write_text("right\n")
        assert submit(TRAIN, Target(standin.url, token_file=token))["run"]
        token.write_text("wrong")
        with pytest.raises(SubmitError, match=r"refused \(401\)"):
            submit(TRAIN, Target(standin.url, token_file=token))


def test_images_that_no_step_uses_are_refused() -> None:
    with pytest.raises(SubmitError, match="no step of train-reader uses other:1"):
        package(Submission("train-reader", TRAIN.package, {}, {"other:1": "x"}))


@pytest.mark.parametrize("pair", ["nonsense=1", "mlflow_uri"])
def test_the_command_line_tells_bad_input_without_a_traceback(
    server: KfpStandIn, pair: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--host", server.url, "--set", "data=d", "mlflow_uri=m", pair]
    monkeypatch.setattr(sys, "argv", ["quarry_kubeflow", "submit", "train-reader", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert pair.partition("=")[0] in capsys.readouterr().err
    assert not server.runs


def test_a_server_that_is_not_there_is_told(server: KfpStandIn) -> None:
    with pytest.raises(SubmitError, match="cannot be reached"):
        submit(TRAIN, Target("http://127.0.0.1:9"))
    server.fail["/apis/v2beta1/runs"] = 503
    with pytest.raises(SubmitError, match=r"refused \(503\): told to fail"):
        submit(TRAIN, Target(server.url))


def test_an_upload_runs_nothing_and_is_of_the_version_that_submit_runs(server: KfpStandIn) -> None:
    first, again = (upload(TRAIN.name, TRAIN.package, Target(server.url)) for _ in range(2))
    assert first == again
    assert not server.runs
    run = submit(TRAIN, Target(server.url))
    assert first == {"pipeline": run["pipeline"], "version": run["version"]}


def test_the_command_line_uploads_every_pipeline(server: KfpStandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["quarry_kubeflow", "upload", "--host", server.url])
    cli.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1]).keys() == cli.PIPELINES.keys()
    monkeypatch.setattr(sys, "argv", ["quarry_kubeflow", "upload", "--host", "http://127.0.0.1:9"])
    with pytest.raises(SystemExit, match=r"upload failed: http://127.0.0.1:9 cannot be reached"):
        cli.main()
