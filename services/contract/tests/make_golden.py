"""Write the golden files anew: `python tests/make_golden.py`. A change in one of them is a change of the contract."""

import json
from pathlib import Path

from quarry_contract import manifests as mf
from quarry_contract import messages as ms
from quarry_contract.codec import Message
from quarry_contract.errors import ErrorCode, QuarryError

GOLDEN = Path(ms.__file__).parent / "golden"
PASSAGE = ms.Passage(
    "9f2c",
    "ms-014.pdf",
    "a" * 64,
    "Erection of tower crane TC1",
    120,
    168,
    "Lifting stops at a mean wind speed of 14 m/s. 🏗",
    3,
    "7 Weather",
    {"format": "pdf"},
)
CITATION = ms.Citation(
    "ms-014.pdf", "a" * 64, "Erection of tower crane TC1", 158, 164, "14 m/s", "Lifting stops at a mean wind speed of 14 m/s.", "9f2c", 3, "7 Weather"
)
CHUNKER = mf.Chunker("sentences", 1, 200, 1)
FILE = mf.FileDigest("b" * 64, 1234)
EXAMPLES: dict[str, Message] = {
    "read_request": ms.ReadRequest("At what wind speed does lifting stop?", (ms.ReadPassage("9f2c", PASSAGE.text, "Tower crane erection - 4 Wind"),), 3, 0.3),
    "read_response": ms.ReadResponse(
        (ms.Span("14 m/s", 11.5, 0.93, (ms.Evidence("9f2c", 38, 44), ms.Evidence("77aa", 4, 10))),), False, 1.25, 0.4, 41, "models:/reader/3"
    ),
    "search_query": ms.SearchQuery("wind speed", 5, "hybrid", {"format": ("pdf", "docx"), "page": 3}),
    "search_request": ms.SearchRequest("wind speed", 5, "hybrid", {"format": ("pdf", "docx"), "page": 3}, ("group:site-team", "user:a.meier")),
    "search_response": ms.SearchResponse((ms.ScoredPassage(PASSAGE, 0.0325),), "c716f9ac051329b9", "models:/retriever/1", ("dense",)),
    "document_request": ms.DocumentRequest((ms.TextRange("ms-014.pdf", 158, 164, "a" * 64),), ("group:site-team",)),
    "document_response": ms.DocumentResponse((ms.DocumentText("ms-014.pdf", "a" * 64, "Erection of tower crane TC1", 20_000, 158, 164, "14 m/s"),)),
    "answer_request": ms.AnswerRequest("At what wind speed does lifting stop?", min_confidence=0.5),
    "answer_response": ms.AnswerResponse((ms.Answer("14 m/s", 0.93, 11.5, (CITATION,)),), False, "f8d74ec1693a", "r-1"),
    "abstention": ms.AnswerResponse((), True, "f8d74ec1693a", "r-2", "not_confident"),
    "job": ms.Job("j-1", "ms-014.pdf", "put", "failed", "2026-11-25T12:00:00+00:00", "2026-11-25T12:00:01+00:00", "a" * 64, None, "encrypted", "a password"),
    "model_manifest": mf.ModelManifest(
        "reader",
        "reader",
        "quarry-base",
        "2026-11-23T00:00:00+00:00",
        {"model.onnx": FILE},
        384,
        calibration=mf.Calibration(0.6, -1.0, 0.35, 0.1, 0.2),
        metrics={"f1": 80.5},
    ),
    "generator_manifest": mf.ModelManifest(
        "generator", "generator", "a-language-model", "2026-11-23T00:00:00+00:00", {"adapter_model.safetensors": FILE}, 512, data_digest="a" * 64
    ),
    "index_manifest": mf.IndexManifest(
        "c716f9ac051329b9", "2026-11-23T00:00:00+00:00", "d" * 64, 3, CHUNKER, 1, "canary", (0.6, 0.8, 0.0)
    ),
    "release_manifest": mf.ReleaseManifest(
        "f8d74ec1693a",
        "2026-11-23T00:00:00+00:00",
        "models:/reader/1",
        "e" * 64,
        "models:/retriever/1",
        "d" * 64,
        "c716f9ac051329b9",
        CHUNKER,
        0.35,
        {"f1": 80.5},
    ),
}


def write() -> None:
    """All of them."""
    GOLDEN.mkdir(exist_ok=True)
    for name, message in EXAMPLES.items():
        (GOLDEN / f"{name}.json").write_text(json.dumps(message.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    problem = QuarryError(ErrorCode.OVERLOADED, "the queue is full", 2).to_problem("r-3")
    (GOLDEN / "problem.json").write_text(json.dumps(problem, indent=1) + "\n")


if __name__ == "__main__":
    write()
