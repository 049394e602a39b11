"""Quarry's REST interface. Nothing it answers is unverified."""

import os

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # read when haystack is imported
