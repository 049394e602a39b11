"""Makes real artefacts on the spot: an ONNX encoder (embedding, masked mean, L2 norm), a WordPiece tokenizer, an index generation."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from quarry_contract.manifests import Chunker, IndexManifest, ModelManifest, digest_file, write_manifest
from quarry_runtime.encode import Encoder
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

DIMENSION = 16
CANARY = "crane wind speed"
POISON = "kaboom"  # a token without an embedding: the model fails on it, for real
WORDS = "the crane wind speed limit concrete wall cured days scaffold inspection gate fire plan hoist minutes meeting tower what is of stops work at".split()
SCHEMA = """
CREATE TABLE documents(document_id TEXT PRIMARY KEY, version TEXT NOT NULL, title TEXT NOT NULL, source TEXT NOT NULL,
                       media_type TEXT NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL);
CREATE TABLE passages(rowid INTEGER PRIMARY KEY, passage_id TEXT UNIQUE NOT NULL, document_id TEXT NOT NULL REFERENCES documents,
                      start INTEGER NOT NULL, end INTEGER NOT NULL, text TEXT NOT NULL, page INTEGER, section TEXT);
"""


@dataclass(frozen=True)
class Document:
    """Its passages are its paragraphs; page = paragraph number."""

    document_id: str
    title: str
    text: str
    metadata: dict[str, str | int | float | bool] = field(default_factory=dict)
    sections: tuple[str | None, ...] = ()

    @property
    def version(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


DOCUMENTS = (
    Document(
        "crane.md",
        "Tower crane",
        "The crane stops work at a wind speed of 20 m/s.\n\nThe crane is 55 m long.\n\nThe crane is inspected at gate 2.",
        {"kind": "method", "revision": 2, "approved": True},
        ("Wind", "Size", None),
    ),
    Document(
        "wall.md",
        "Basement walls",
        "Concrete C32/40 is cured for 7 days.\n\nThe wall is 3.1 m high.\n\nThe wall is 3.1 m high.",
        {"kind": "method", "revision": 1, "approved": False},
        ("Curing", "Size", "Size"),
    ),
    Document("minutes.txt", "Minutes 🏗️", "Meeting of the site 👷‍♀️ team.\n\nThe fire plan is due at 10:30.\n\nبوابة 2 is closed: é!", {"kind": "minutes"}),
    Document("scaffold.txt", "Scaffold", "\n\n".join(f"Scaffold bay {n} has passed its inspection at gate {n % 3}." for n in range(40)), {"kind": "report"}),
)


def make_model(folder: Path, seed: int = 1) -> Path:
    """A whole retriever artefact; another seed is another model."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *characters, *[f"##{c}" for c in characters], POISON]))
    tokenizer = Tokenizer(WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(length=32)  # must be overridden by who loads it
    tokenizer.save(str(folder / "tokenizer.json"))
    onnx.save(_graph(len(vocabulary) - 1, seed), str(folder / "encoder.onnx"))
    files = {name: digest_file(folder / name) for name in ("encoder.onnx", "tokenizer.json")}
    names = {"question_encoder": "encoder.onnx", "passage_encoder": "encoder.onnx"}
    write_manifest(folder / "model.json", ModelManifest("tiny", "retriever", "none", "2026-11-23T00:00:00+00:00", files, 64, dimension=DIMENSION, **names))
    return folder


def _graph(tokens: int, seed: int) -> onnx.ModelProto:
    table = np.random.default_rng(seed).normal(size=(tokens, DIMENSION)).astype(np.float32)
    axes = [numpy_helper.from_array(np.array([axis], np.int64), f"axis{axis}") for axis in (1, 2)]
    constants = [numpy_helper.from_array(table, "table"), *axes]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis2"], ["mask3"]),
        helper.make_node("Mul", ["vectors", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis1"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "axis1"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("LpNormalization", ["mean"], ["sentence_embedding"], axis=-1, p=2),
    ]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", DIMENSION])
    graph = helper.make_graph(nodes, "encoder", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def paragraphs(document: Document) -> list[tuple[int, int]]:
    """Where the paragraphs stand."""
    places, at = [], 0
    for part in document.text.split("\n\n"):
        places.append((at, at + len(part)))
        at += len(part) + 2
    return places


def make_index(folder: Path, model_dir: Path, documents: Sequence[Document]) -> Path:
    """An index generation of these documents, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load(model_dir)
    rows = []
    for document in documents:
        for i, (start, end) in enumerate(paragraphs(document)):
            section = document.sections[i] if i < len(document.sections) else None
            rows.append((f"{document.document_id}#{i}", document.document_id, start, end, document.text[start:end], i + 1, section))
    write_database(folder / "passages.db", documents, rows)
    vectors = encoder.encode([row[4] for row in rows])
    write_vectors(folder / "dense.faiss", vectors)
    write_index_manifest(folder, encoder, len(documents), len(rows))
    return folder


def write_database(path: Path, documents: Sequence[Document], rows: Sequence[tuple[object, ...]]) -> None:
    """passages.db."""
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    values = [(d.document_id, d.version, d.title, "test", "text/plain", d.text, json.dumps(d.metadata)) for d in documents]
    database.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    database.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(i, *row) for i, row in enumerate(rows, 1)])
    database.commit()
    database.close()


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """dense.faiss."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(path))


def write_index_manifest(folder: Path, encoder: Encoder, documents: int, passages: int) -> None:
    """index.json over the files as they are."""
    files = {name: digest_file(folder / name) for name in ("passages.db", "dense.faiss")}
    canary = tuple(float(x) for x in encoder.encode([CANARY])[0])
    chunker = Chunker("paragraphs", 1, 64, 0)
    created = "2026-11-23T00:00:00+00:00"
    write_manifest(folder / "index.json", IndexManifest("g1", created, encoder.manifest.digest, DIMENSION, chunker, documents, passages, files, CANARY, canary))
