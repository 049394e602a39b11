"""train-retriever: check -> passages -> fit -> export -> evaluate -> register as challenger -> gate -> promote if it passed."""

from typing import NamedTuple

from kfp import dsl

from . import steps
from .resources import acting, heavy, once, small


class Result(NamedTuple):
    """The registered version, and passed or refused."""

    version: str
    verdict: str


def train_retriever(
    data: str,
    mlflow_uri: str,
    held_out: str = "",
    base: str = "minilm",
    separate: bool = False,
    epochs: float = 3.0,
    learning_rate: float = 2e-5,
    max_seconds: float = 0.0,
    hard_negatives: int = 4,
    policy: str = "",
    seed: int = 17,
) -> Result:
    """Fine-tune, export, evaluate, register and judge the dual encoder; promote it if the gate lets it."""
    dataset = once(steps.check_dataset(data=data, held_out=held_out)).outputs["dataset"]
    passages = small(steps.cut_passages(dataset=dataset, hard_negatives=hard_negatives)).outputs["passages"]
    schedule = {"epochs": epochs, "learning_rate": learning_rate, "max_seconds": max_seconds, "separate": separate, "seed": seed}
    model = heavy(steps.fit_retriever(passages=passages, base=base, **schedule)).outputs["model"]
    artefact = heavy(steps.export_retriever(dataset=dataset, model=model, base=base)).outputs["artefact"]
    evaluation = heavy(steps.evaluate(dataset=dataset, artefact=artefact)).outputs["evaluation"]
    made = {"dataset": dataset, "model": model, "artefact": artefact, "evaluation": evaluation}
    version = acting(small(steps.register_retriever(mlflow_uri=mlflow_uri, **made))).outputs["Output"]
    verdict = acting(heavy(steps.gate(version=version, dataset=dataset, policy=policy, mlflow_uri=mlflow_uri))).outputs["Output"]
    with dsl.If(verdict == "passed", name="passed"):
        acting(small(steps.promote(version=version, mlflow_uri=mlflow_uri)))
    return Result(version=version, verdict=verdict)
