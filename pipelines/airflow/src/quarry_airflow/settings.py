"""What the DAG is told, read from the environment when its file is parsed: a wrong value is a broken DAG at once, not a failed night."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


class SettingsError(Exception):
    """A variable is missing or wrong; the message says which."""


@dataclass(frozen=True)
class Settings:
    """One source, one QUARRY_HOME. Commands are those of the other environments, each with its first arguments."""

    source: str  # a folder, or s3://bucket/prefix
    home: str  # QUARRY_HOME, which holds index and ledger
    model_dir: str  # the retriever's artefact folder
    questions: str = ""  # SQuAD JSON whose titles are document ids; empty = the recall is not known, and nothing is released
    floor: float = 0.95  # lowest recall that may be released
    principals: tuple[str, ...] = ()  # who asks these questions
    ingestion: tuple[str, ...] = ("python3", "-m", "quarry_ingestion")
    recall: tuple[str, ...] = ("python3", "-m", "quarry_retriever.recall")
    kubeflow: tuple[str, ...] = ("python3", "-m", "quarry_kubeflow")
    kfp_host: str = ""  # the Kubeflow Pipelines address; empty = nothing is released
    pipeline: str = "evaluate-and-release"
    inputs: tuple[str, ...] = ()  # the pipeline's, as key=value
    schedule: str = "0 * * * *"
    wait: timedelta = timedelta(minutes=50)  # for a change of the source, from a scheduled run's start; shorter than the schedule
    poke: timedelta = timedelta(minutes=1)  # between two looks at the source
    retries: int = 3
    retry_delay: timedelta = timedelta(minutes=1)  # before the first; each further one is twice as long, an hour at most
    deadline: timedelta = timedelta(hours=3)  # of a run, waiting included; 0 = none

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read QUARRY_HOME and QUARRY_AIRFLOW_SOURCE, _MODEL_DIR and so on: the README has the list.

        Raises:
            SettingsError: one is missing or wrong.
        """
        return _Reader(environment).settings()


@dataclass(frozen=True)
class _Reader:
    environment: Mapping[str, str]
    prefix: str = field(default="QUARRY_AIRFLOW_")

    def settings(self) -> Settings:
        return Settings(
            source=self.needed("SOURCE"),
            home=self.absolute("QUARRY_HOME", self.environment.get("QUARRY_HOME", "")),
            model_dir=self.absolute("QUARRY_AIRFLOW_MODEL_DIR", self.needed("MODEL_DIR")),
            questions=self.text("QUESTIONS", ""),
            floor=self.number("RECALL_FLOOR", Settings.floor, 0, 1),
            principals=self.words("PRINCIPALS", ()),
            ingestion=self.words("INGESTION", Settings.ingestion),
            recall=self.words("RECALL", Settings.recall),
            kubeflow=self.words("KUBEFLOW", Settings.kubeflow),
            kfp_host=self.text("KFP_HOST", ""),
            pipeline=self.text("PIPELINE", Settings.pipeline),
            inputs=self.words("INPUTS", ()),
            schedule=self.text("SCHEDULE", Settings.schedule),
            wait=self.seconds("WAIT_SEC", Settings.wait),
            poke=self.seconds("POKE_SEC", Settings.poke),
            retries=int(self.number("RETRIES", Settings.retries, 0, 100)),
            retry_delay=self.seconds("RETRY_DELAY_SEC", Settings.retry_delay),
            deadline=self.seconds("DEADLINE_SEC", Settings.deadline),
        )

    def text(self, name: str, default: str) -> str:
        return self.environment.get(self.prefix + name, "").strip() or default

    def needed(self, name: str) -> str:
        if not (found := self.text(name, "")):
            raise SettingsError(f"{self.prefix}{name} is not set")
        return found

    def absolute(self, name: str, found: str) -> str:
        if not found.startswith("/"):
            raise SettingsError(f"{name} must be a folder's whole path, not {found!r}")
        return found

    def words(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(shlex.split(self.text(name, ""))) or default
        except ValueError as error:
            raise SettingsError(f"{self.prefix}{name} is not closed as a shell would want it: {error}") from None

    def number(self, name: str, default: float, low: float, high: float) -> float:
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise SettingsError(f"{self.prefix}{name} must be a number from {low:g} to {high:g}, not {text!r}")
        return value

    def seconds(self, name: str, default: timedelta) -> timedelta:
        return timedelta(seconds=self.number(name, default.total_seconds(), 0, 7 * 86_400))
