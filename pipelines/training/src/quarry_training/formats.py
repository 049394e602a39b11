"""What may lie in a model's folder, and how each file is checked before anything loads it. No pickle is ever loaded.

Unpickling runs whatever code the file holds (docs/security.md), so the kinds that are read are listed here and all others refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import yaml
from google.protobuf.message import DecodeError
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError, ModelManifest, digest_of, read_manifest, verify_files
from safetensors import SafetensorError, safe_open

# What register adds to an artefact for its readers; no service opens these, and the manifest does not list them.
DESCRIPTION = ("README.md", "MLmodel", "input_example.json")
PRIOR = "prior-calibration.json"  # of the base's own confidence, in its folder and in that of what is trained from it
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras"}
# Not of the content: when and where it was made, and what was measured on it.
INCIDENTAL = ("created", "code_commit", "metrics")


def artefact_digest(manifest: ModelManifest) -> str:
    """Identifies what is served: the files, and the settings and calibration they are served with."""
    return digest_of({k: v for k, v in manifest.to_dict().items() if k not in INCIDENTAL})


def check_artefact(folder: Path) -> ModelManifest:
    """The manifest of an artefact folder that is whole, unchanged, and holds nothing but what the manifest lists.

    Raises:
        ManifestError: naming the first file that is missing, changed, unlisted, or not of a kind that is read.
    """
    manifest = read_manifest(folder / MODEL_MANIFEST, ModelManifest)
    names = [path.name for path in folder.iterdir()]
    check_names(manifest, names)
    for name in names:
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise ManifestError(f"{name} is not a plain file: an artefact is one folder of plain files")
    verify_files(folder, manifest.files)
    for name in names:
        check_file(folder / name)
    return manifest


def check_names(manifest: ModelManifest, names: list[str]) -> None:
    """Whether these are exactly an artefact's files; the descriptions may be absent.

    Raises:
        ManifestError: naming one that is missing, unlisted, or of a kind that is not read.
    """
    missing = manifest.files.keys() - set(names)
    if missing:
        raise ManifestError(f"{min(missing)} is missing, though {MODEL_MANIFEST} lists it")
    extra = set(names) - manifest.files.keys() - {MODEL_MANIFEST, *DESCRIPTION}
    if extra:
        raise ManifestError(f"{min(extra)} does not belong to the artefact: {MODEL_MANIFEST} does not list it")
    for name in manifest.files:
        if Path(name).suffix not in CHECKS:
            raise ManifestError(f"{name} is of a kind that is never read: an artefact holds {', '.join(CHECKS)} files")


def check_file(path: Path) -> None:
    """Whether the content is of the kind the name says.

    Raises:
        ManifestError: it is not, e.g. a pickle named model.onnx.
    """
    try:
        (_mlmodel if path.name == "MLmodel" else CHECKS[path.suffix])(path)
    except (ValueError, KeyError, SafetensorError, DecodeError, yaml.YAMLError) as error:
        raise ManifestError(f"{path.name} is not what its name says: {str(error).splitlines()[0] if str(error) else 'it cannot be parsed'}") from error


def check_base(folder: Path) -> None:
    """Whether a Hugging Face model folder can be trained from: config.json, tokenizer.json and safetensors weights, nothing pickled.

    Raises:
        ManifestError: it cannot; the message says which file and what to do.
    """
    names = sorted(path.name for path in folder.iterdir())
    pickled = [name for name in names if Path(name).suffix in PICKLED]
    weights = [name for name in names if name.endswith(".safetensors")]
    if pickled and weights:
        raise ManifestError(f"{folder} holds {pickled[0]}, which may run code when loaded: remove it (the safetensors weights beside it are enough)")
    if pickled:
        raise ManifestError(f"{folder} has no safetensors weights, only {pickled[0]}, which may run code and is never loaded: convert it to model.safetensors")
    missing = [name for name in ("config.json", "tokenizer.json") if name not in names] + ([] if weights else ["*.safetensors"])
    if missing:
        raise ManifestError(f"{folder} lacks {', '.join(missing)}")
    if "adapter_config.json" in names:
        raise ManifestError(f"{folder} is an adapter, which names other weights to load: give a whole model as base")
    for name in names:
        if name.endswith((".safetensors", ".json")):
            check_file(folder / name)
    for index in folder.glob("*.safetensors.index.json"):
        content = json.loads(index.read_bytes())
        parts = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(parts, dict) or not all(part in weights for part in parts.values()):
            raise ManifestError(f"{index.name} points at weights other than the folder's own safetensors files")


def _safetensors(path: Path) -> None:
    with safe_open(str(path), "numpy") as file:
        if not file.keys():
            raise ValueError("it holds no tensor")


def _onnx(path: Path) -> None:
    model = onnx.load_model(str(path), load_external_data=False)
    if not model.graph.node:  # protobuf reads many other bytes as an empty message
        raise ValueError("it holds no graph")
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise ValueError("it takes weights from other files")


def _json(path: Path) -> None:
    json.loads(path.read_bytes())


def _text(path: Path) -> None:
    path.read_bytes().decode("utf-8")


def _mlmodel(path: Path) -> None:
    content: Any = yaml.safe_load(path.read_bytes())
    if not isinstance(content, dict) or content.get("flavors"):
        raise ValueError("it names a loader, and models are never loaded through MLflow")


CHECKS: dict[str, Callable[[Path], None]] = {".safetensors": _safetensors, ".onnx": _onnx, ".json": _json, ".txt": _text, ".md": _text}
