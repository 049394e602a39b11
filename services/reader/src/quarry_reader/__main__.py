"""`python -m quarry_reader`: the reader behind the model server."""

from quarry_runtime.server import serve
from quarry_runtime.settings import ServerSettings

from .core import load

if __name__ == "__main__":
    serve(ServerSettings.from_environment("reader", "QUARRY_READER", 9001), load)
