"""`python -m quarry_gateway`."""

from .app import main

main()
