"""Draws which pod may talk to which, from the rendered production manifests, into docs/kubernetes.md: `python -m manifests.picture`."""

from collections.abc import Iterator

from .chart import ACCOUNT, CHART, CLONE, render, values
from .flows import DNS, flows

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
}


def picture() -> str:
    """A Mermaid flowchart. Names' resolution, which everyone has, is left out."""
    found = sorted(f for f in flows(render(values(True), [CHART / "values-production.yaml", ACCOUNT])) if f[1] != DNS)
    return "\n".join(["```mermaid", "flowchart LR", *_arrows(found), "```"])


def _arrows(found: list[tuple[str, str, int]]) -> Iterator[str]:
    for one, other, port in found:
        why = WHY.get((one, other)) or WHY.get((one, "*")) or WHY.get(("*", other), "")
        yield f'  {_node(one)} -- "{why}, {port}" --> {_node(other)}'


def _node(name: str) -> str:
    return f"{''.join(c if c.isalnum() else '_' for c in name)}[{name}]"


def main() -> None:
    """Write it into the page."""
    text = PAGE.read_text()
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{head}\n{picture()}\n\n{tail}")


if __name__ == "__main__":
    main()
