"""The retriever as a user class of the stock seldon-core wrapper: see services/retriever/seldon."""

from quarry_runtime.seldon_wrapper import SeldonModel

from .core import load


class RetrieverModel(SeldonModel):
    """`seldon-core-microservice quarry_retriever.seldon_model.RetrieverModel --service-type MODEL`."""

    def __init__(self) -> None:
        super().__init__("retriever", load)
