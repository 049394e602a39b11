"""build-index: fetch the retriever -> extract, cut and encode the documents."""

from . import steps
from .resources import acting, heavy, small


def build_index(documents: str, home: str, mlflow_uri: str, retriever: str = "models:/retriever@champion") -> str:
    """Encode a folder of documents for one retriever into an index generation."""
    folder = acting(small(steps.fetch_retriever(version=retriever, home=home, mlflow_uri=mlflow_uri))).outputs["Output"]
    return acting(heavy(steps.build_index(documents=documents, home=home, model_dir=folder))).outputs["Output"]
