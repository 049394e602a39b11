"""What stands in which environment."""

import pytest

from .conftest import CLONE


@pytest.mark.parametrize("project", ["services/gateway", "services/reader", "services/retriever", "pipelines/ingestion"])
def test_nothing_that_serves_or_ingests_holds_torch_or_transformers(project: str) -> None:
    installed = {p.name for p in (CLONE / project / ".venv").glob("lib/python3*/site-packages/*")}
    assert "quarry_contract" in str(sorted(installed)), "the environment is there"
    assert not installed & {"torch", "transformers", "sentence_transformers"}


@pytest.mark.parametrize("project", ["services/gateway", "services/reader", "services/retriever"])
def test_no_server_holds_seldon_core(project: str) -> None:
    """It is under the Business Source Licence; only the wrapper's own environments have it."""
    installed = {p.name for p in (CLONE / project / ".venv").glob("lib/python3*/site-packages/*")}
    assert "seldon_core" not in installed
