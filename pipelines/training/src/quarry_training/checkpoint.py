"""Where a run stands, as one safetensors file with JSON in its header: nothing pickled, and whole or absent."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

NAME = "checkpoint.safetensors"


def write(out: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], best: Mapping[str, torch.Tensor]) -> None:
    """Keep the trained weights, the optimizer's moments, the best weights so far, and `state` (anything JSON can hold)."""
    tensors = {f"best/{name}": tensor for name, tensor in best.items()}
    for name, parameter in trained(model).items():
        tensors[f"model/{name}"] = parameter.detach()
        tensors |= {f"optimizer/{name}/{kind}": torch.as_tensor(value) for kind, value in optimizer.state[parameter].items()}
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{NAME}.tmp"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(partial), {"state": json.dumps(state)})
    partial.replace(out / NAME)


def read(out: Path, run: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
    """Put weights and moments back; returns (state, best weights), or None if there is no checkpoint of this `run`.

    `run` is compared with state["run"]: other data, settings or base make another run, which starts anew.
    """
    if not (out / NAME).exists():
        return None
    try:
        with safe_open(str(out / NAME), framework="pt") as file:
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            if state["run"] != run:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
    moments: dict[int, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for i, (name, parameter) in enumerate(trained(model).items()):
            parameter.copy_(tensors[f"model/{name}"])
            prefix = f"optimizer/{name}/"
            found = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            moments |= {i: found} if found else {}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return state, {name.removeprefix("best/"): tensor for name, tensor in tensors.items() if name.startswith("best/")}


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name, in the optimizer's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
