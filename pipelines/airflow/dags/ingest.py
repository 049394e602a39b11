"""New documents into the index: collect -> index -> evaluate -> release -> record.

`collect` waits until the source differs from what the last complete run took. `index` brings the index to it. `evaluate` is the gate:
with a recall under the floor the run fails and nothing is released. `release` starts the Kubeflow release pipeline, once for each
content of the index. `record` tells the asset `quarry-index`, which other DAGs may be scheduled on, and which `collect` compares with.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import Asset, DeadlineAlert, DeadlineReference, Param, PokeReturnValue, SyncCallback, TriggerRule, dag, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from quarry_airflow import alerts, steps
from quarry_airflow.settings import Settings

SETTINGS = Settings.from_environment()
INDEX = Asset(name="quarry-index")
LATE = DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=SETTINGS.deadline, callback=SyncCallback(alerts.late))
ONE_AT_A_TIME = {"max_active_tis_per_dag": 1}  # of all runs, a backfill's too: an index has one writer


def without_retry(step, *arguments):
    """A step's result; what another try would refuse again fails its task for good."""
    try:
        return step(SETTINGS, *arguments)
    except steps.Refused as error:
        raise AirflowFailException(str(error)) from None


@dag(
    dag_id="quarry_ingest",
    description="New documents into the index, judged, and into a release",
    schedule=SETTINGS.schedule,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": SETTINGS.retries,
        "retry_delay": SETTINGS.retry_delay,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(hours=1),
    },
    deadline=LATE if SETTINGS.deadline else None,
    params={"wait": Param(True, type="boolean", description="wait for the source to change; a backfill never waits")},
    doc_md=__doc__,
    tags=["quarry"],
)
def quarry_ingest():
    """The DAG."""

    @task.sensor(mode="reschedule", poke_interval=SETTINGS.poke, timeout=SETTINGS.wait, soft_fail=True, inlets=[INDEX])
    def collect(params=None, dag_run=None, inlet_events=None):
        found = steps.collect(SETTINGS)
        taken = [event.extra["source"] for event in inlet_events[INDEX].ascending(False).limit(1)]
        waits = params["wait"] and dag_run.run_type != "backfill"
        return PokeReturnValue(is_done=not waits or taken != [found["digest"]], xcom_value=found)

    @task(**ONE_AT_A_TIME)
    def index():
        return steps.index(SETTINGS)

    @task(**ONE_AT_A_TIME)
    def evaluate(made):
        if not SETTINGS.questions:
            raise AirflowSkipException("QUARRY_AIRFLOW_QUESTIONS is not set: the recall is not known, and nothing is released")
        return without_retry(steps.evaluate, made["generation"])

    @task(**ONE_AT_A_TIME)
    def release(made):
        if not SETTINGS.kfp_host:
            raise AirflowSkipException("QUARRY_AIRFLOW_KFP_HOST is not set: nothing is released")
        return without_retry(steps.release, made["digest"])

    @task(outlets=[INDEX], trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    def record(found, made, judged, released, outlet_events=None):
        outlet_events[INDEX].extra = {"source": found["digest"], "index": made, "evaluation": judged, "release": released}

    found, made = collect(), index()
    judged = evaluate(made)
    released = release(made)
    found >> made
    judged >> released
    record(found, made, judged, released)


quarry_ingest()
