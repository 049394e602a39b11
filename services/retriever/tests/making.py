"""Makes real artefacts on the spot: an ONNX encoder (embedding, masked mean, L2 norm), a WordPiece tokenizer, an index generation."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from quarry_contract.index_store import INDEX_DATABASE, SCHEMA, SCHEMA_VERSION, connect
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


@dataclass(frozen=True)
class Document:
    """Its passages are its paragraphs; page = paragraph number."""

    document_id: str
    title: str
    text: str
    metadata: dict[str, str | int | float | bool] = field(default_factory=dict)
    sections: tuple[str | None, ...] = ()
    principals: tuple[str, ...] = ("*",)

    @property
    def version(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def passages(self) -> list[tuple[str, int, int, str, int, str | None]]:
        """passage_id, start, end, text, page, section."""
        rows = []
        for i, (start, end) in enumerate(paragraphs(self)):
            section = self.sections[i] if i < len(self.sections) else None
            rows.append((f"{self.document_id}#{i}@{self.version[:6]}", start, end, self.text[start:end], i + 1, section))
        return rows


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


class Writer:
    """Changes index.db as ingestion does: one document, one transaction."""

    def __init__(self, folder: Path, encode: Callable[[list[str]], np.ndarray]) -> None:
        new = not (folder / INDEX_DATABASE).exists()
        self._database = connect(folder / INDEX_DATABASE, writing=True)
        if new:
            self._database.executescript(SCHEMA)
        self._encode = encode

    def put(self, document: Document) -> None:
        """Add it, or replace what there is of it."""
        vectors = self._encode([passage[3] for passage in document.passages])
        with self.change() as (database, revision):
            self._remove(document.document_id, revision)
            shown = (json.dumps(document.metadata), json.dumps(sorted(document.principals)))
            head = (document.document_id, document.version, document.title, "test", "text/plain", document.text, "[]", "[]", *shown, revision)
            database.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", head)
            columns = 'passages(passage_id, document_id, start, "end", text, page, section, revision)'
            for (passage_id, *rest), vector in zip(document.passages, vectors, strict=True):
                values = (passage_id, document.document_id, *rest, revision)
                [row] = database.execute(f"INSERT INTO {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING row", values).fetchone()
                database.execute("INSERT INTO vectors VALUES (?, ?)", (row, vector.astype("<f4").tobytes()))

    def delete(self, document_id: str) -> None:
        """Take it out."""
        with self.change() as (database, revision):
            self._remove(document_id, revision)
            database.execute("DELETE FROM documents WHERE document_id = ?", (document_id,))

    def update(self, document_id: str, **values: str) -> None:
        """Change columns of a document and leave its passages as they are."""
        with self.change() as (database, revision):
            for name, value in values.items():
                database.execute(f"UPDATE documents SET {name} = ?, revision = ? WHERE document_id = ?", (value, revision, document_id))

    def forget(self) -> None:
        """Cut the log of what was removed."""
        with self.change() as (database, revision):
            database.execute("DELETE FROM removed")
            database.execute("UPDATE state SET oldest = ?", (revision,))

    @contextmanager
    def change(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """One transaction: the connection and the revision it makes."""
        self._database.execute("BEGIN IMMEDIATE")
        [revision] = self._database.execute("UPDATE state SET revision = revision + 1 RETURNING revision").fetchone()
        yield self._database, revision
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _remove(self, document_id: str, revision: int) -> None:
        for (row,) in self._database.execute("SELECT row FROM passages WHERE document_id = ?", (document_id,)).fetchall():
            self._database.execute("INSERT INTO removed VALUES (?, ?)", (row, revision))
            self._database.execute("DELETE FROM vectors WHERE row = ?", (row,))
            self._database.execute("DELETE FROM passages WHERE row = ?", (row,))


def make_index(folder: Path, model_dir: Path, documents: Sequence[Document]) -> Path:
    """An index generation of these documents, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load(model_dir)
    writer = Writer(folder, encoder.encode)
    for document in documents:
        writer.put(document)
    writer.close()
    canary = tuple(float(x) for x in encoder.encode([CANARY])[0])
    made = ("2026-11-23T00:00:00+00:00", encoder.manifest.digest, DIMENSION, Chunker("paragraphs", 1, 64, 0), SCHEMA_VERSION)
    write_manifest(folder / "index.json", IndexManifest("g1", *made, CANARY, canary))
    return folder
