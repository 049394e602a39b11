"""The reader as a user class of the stock seldon-core wrapper: see services/reader/seldon."""

from quarry_runtime.seldon_wrapper import SeldonModel

from .core import load


class ReaderModel(SeldonModel):
    """`seldon-core-microservice quarry_reader.seldon_model.ReaderModel --service-type MODEL`."""

    def __init__(self) -> None:
        super().__init__("reader", load)
