"""`python -m quarry_retriever`: the retriever behind the model server."""

from quarry_runtime.server import serve
from quarry_runtime.settings import ServerSettings

from .core import load

if __name__ == "__main__":
    serve(ServerSettings.from_environment("retriever", "QUARRY_RETRIEVER", 9002), load)
