"""What a failing assertion of a sequence compares is said as in a test."""

import pytest

pytest.register_assert_rewrite("tests.sequences")
