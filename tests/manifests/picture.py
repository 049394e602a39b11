"""Draws which pod may talk to which, from the rendered manifests, into docs/kubernetes.md: `python -m manifests.picture`.

Two pictures: our services in production, and a laptop's cluster with what surrounds them.
"""

from collections.abc import Iterator

from .chart import ACCOUNT, CHART, CLONE, render, values
from .flows import DNS, flows
from .laptop import laptop_flows

PAGE = CLONE / "docs" / "kubernetes.md"
BEGIN, END = "<!-- drawn by tests/manifests/picture.py -->\n", "<!-- end of the drawing -->"
WHY = {
    ("gateway", "retriever"): "search, texts",
    ("gateway", "reader"): "spans",
    ("gateway", "ingestion"): "uploads",
    ("prometheus", "*"): "metrics",
    ("*", "outside"): "S3, Pinecone",
    ("*", "node agent"): "the role's credentials",
    ("*", "gateway"): "questions",
    ("*", "object-store"): "releases, documents, artefacts",
    ("*", "postgres"): "its own database",
    ("*", "mlflow"): "runs, models",
    ("*", "ml-pipeline"): "pipelines",
    ("scheduler", "api-server"): "what tasks are to do",
    ("filebeat", "elasticsearch"): "lines of logs",
    ("*", "elasticsearch"): "search, settings",
    ("*", "kibana"): "pages",
}


def picture() -> str:
    """A Mermaid flowchart. Names' resolution, which everyone has, is left out."""
    found = sorted(f for f in flows(render(values(True), [CHART / "values-production.yaml", ACCOUNT])) if f[1] != DNS)
    return _drawn(found)


def laptop_picture() -> str:
    """The same for a laptop, between the pods of all namespaces."""
    return _drawn(sorted(laptop_flows()))


def _drawn(found: list[tuple[str, str, int]]) -> str:
    return "\n".join(["```mermaid", "flowchart LR", *_arrows(found), "```"])


def _arrows(found: list[tuple[str, str, int]]) -> Iterator[str]:
    for one, other, port in found:
        why = WHY.get((one, other)) or WHY.get((one, "*")) or WHY.get(("*", other), "")
        yield f'  {_node(one)} -- "{why}, {port}" --> {_node(other)}'


def _node(name: str) -> str:
    return f"{''.join(c if c.isalnum() else '_' for c in name)}[{name}]"


def drawings(text: str) -> list[str]:
    """What stands between the marks of a page."""
    return [part.partition(END)[0] for part in text.split(BEGIN)[1:]]


def main() -> None:
    """Write them into the page."""
    head, *parts = PAGE.read_text().split(BEGIN)
    made = zip((picture(), laptop_picture()), (part.partition(END)[2] for part in parts), strict=True)
    PAGE.write_text(head + "".join(f"{BEGIN}\n{drawn}\n\n{END}{rest}" for drawn, rest in made))


if __name__ == "__main__":
    main()
