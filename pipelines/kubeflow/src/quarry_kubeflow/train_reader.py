"""train-reader: check -> fit -> calibrate -> export -> evaluate -> register as challenger -> gate -> promote if it passed."""

from typing import NamedTuple

from kfp import dsl

from . import steps
from .resources import acting, heavy, once, small


class Result(NamedTuple):
    """The registered version, and passed or refused."""

    version: str
    verdict: str


def train_reader(
    data: str,
    mlflow_uri: str,
    held_out: str = "",
    base: str = "quarry-base",
    epochs: float = 2.0,
    learning_rate: float = 3e-5,
    max_seconds: float = 0.0,
    lora_rank: int = 0,
    min_answered: float = 0.87,
    max_wrong: float = 0.0,
    policy: str = "",
    seed: int = 17,
) -> Result:
    """Fine-tune, calibrate, export, evaluate, register and judge the span reader; promote it if the gate lets it."""
    dataset = once(steps.check_dataset(data=data, held_out=held_out)).outputs["dataset"]
    schedule = {"epochs": epochs, "learning_rate": learning_rate, "max_seconds": max_seconds, "lora_rank": lora_rank, "seed": seed}
    model = heavy(steps.fit_reader(dataset=dataset, base=base, **schedule)).outputs["model"]
    calibration = heavy(steps.calibrate_reader(dataset=dataset, model=model, min_answered=min_answered, max_wrong=max_wrong)).outputs["calibration"]
    artefact = heavy(steps.export_reader(dataset=dataset, model=model, calibration=calibration, base=base)).outputs["artefact"]
    evaluation = heavy(steps.evaluate(dataset=dataset, artefact=artefact)).outputs["evaluation"]
    made = {"dataset": dataset, "model": model, "artefact": artefact, "evaluation": evaluation}
    version = acting(small(steps.register_reader(calibration=calibration, mlflow_uri=mlflow_uri, **made))).outputs["Output"]
    verdict = acting(heavy(steps.gate(version=version, dataset=dataset, policy=policy, mlflow_uri=mlflow_uri))).outputs["Output"]
    with dsl.If(verdict == "passed", name="passed"):
        acting(small(steps.promote(version=version, mlflow_uri=mlflow_uri)))
    return Result(version=version, verdict=verdict)
