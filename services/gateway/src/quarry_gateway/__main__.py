"""`python -m quarry_gateway`."""

from .settings import Settings


def main() -> None:
    """Serve as the environment says."""
    settings = Settings.from_environment()
    from .app import serve  # after the settings: it takes a second to import, and a wrong one is to be told at once

    serve(settings)


main()
