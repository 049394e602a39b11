"""An artefact folder as a function: checked against its manifest, loaded by ONNX Runtime, run on token ids."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError, ModelManifest, read_manifest, verify_files
from tokenizers import Tokenizer

Array = np.ndarray[Any, Any]


def cpus() -> int:
    """Processors this process may use: affinity, and the cgroup's quota where there is one."""
    available = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return available if quota == "max" else max(1, min(available, int(quota) // int(period)))
    except (OSError, ValueError):
        return available


def open_artefact(folder: Path, kind: str) -> ModelManifest:
    """Read `model.json` and check every file it lists.

    Raises:
        ManifestError: something is missing, damaged, or is another kind of model.
    """
    manifest = read_manifest(folder / MODEL_MANIFEST, ModelManifest)
    if manifest.kind != kind:
        raise ManifestError(f"the artefact is a {manifest.kind}, not a {kind}")
    verify_files(folder, manifest.files)
    return manifest


def open_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer without the truncation and padding its file may ask for.

    Raises:
        ManifestError: the file is not a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ManifestError(f"{path.name} is not a tokenizer file") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a document is text, not the end of a segment
    return tokenizer


class Session:
    """One ONNX graph with inputs input_ids, attention_mask, token_type_ids, int64 (batch, length).

    One thread per call: several calls run side by side on one copy of the weights.
    """

    def __init__(self, path: Path, outputs: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes share no public base
            raise ManifestError(f"{path.name} is not an ONNX model this runtime can load") from error
        expected = {"input_ids", "attention_mask", "token_type_ids"}
        if {i.name for i in self._session.get_inputs()} != expected or not set(outputs) <= {o.name for o in self._session.get_outputs()}:
            raise ManifestError(f"{path.name} does not have the inputs {sorted(expected)} and outputs {list(outputs)}")
        self._outputs = list(outputs)

    def run(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Array]:
        """Run (token ids, segment ids) rows, padded to the longest; one array per output, first axis = row."""
        longest = max(len(ids) for ids, _ in rows)
        batch, mask, types = (np.zeros((len(rows), longest), np.int64) for _ in range(3))
        for i, (ids, segments) in enumerate(rows):
            batch[i, : len(ids)], types[i, : len(ids)], mask[i, : len(ids)] = ids, segments, 1
        result: list[Array] = self._session.run(self._outputs, {"input_ids": batch, "attention_mask": mask, "token_type_ids": types})
        return result
