"""evaluate-and-release: judge reader and retriever on one set -> promote both if both passed -> bind them with the index into a release."""

from typing import NamedTuple

from kfp import dsl

from . import steps
from .resources import acting, heavy, once, small


class Result(NamedTuple):
    """The two verdicts: passed or refused."""

    reader: str
    retriever: str


def evaluate_and_release(
    data: str, home: str, mlflow_uri: str, reader: str, retriever: str, reader_policy: str = "", retriever_policy: str = ""
) -> Result:
    """Judge a reader and a retriever against the champions, and bind them into a release if both pass."""
    dataset = once(steps.evaluation_set(data=data)).outputs["dataset"]
    reading = acting(heavy(steps.gate(version=reader, dataset=dataset, policy=reader_policy, mlflow_uri=mlflow_uri))).set_display_name("gate-reader")
    finding = acting(heavy(steps.gate(version=retriever, dataset=dataset, policy=retriever_policy, mlflow_uri=mlflow_uri))).set_display_name("gate-retriever")
    verdicts = {"reader": reading.outputs["Output"], "retriever": finding.outputs["Output"]}
    with dsl.If(verdicts["reader"] == "passed", name="reader-passed"), dsl.If(verdicts["retriever"] == "passed", name="both-passed"):
        promoted = [acting(small(steps.promote(version=version, mlflow_uri=mlflow_uri))).outputs["Output"] for version in (reader, retriever)]
        acting(small(steps.bind_release(reader=promoted[0], retriever=promoted[1], home=home, mlflow_uri=mlflow_uri)))
    return Result(**verdicts)
