"""The Trainer manifest against the models that Kubeflow Trainer publishes, and against the script it calls."""

import re
from pathlib import Path
from typing import Any

import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

PROJECT = Path(__file__).parents[1]
FIT = PROJECT.parent / "training" / "src" / "quarry_training" / "fit.py"


def manifest() -> dict[str, Any]:
    return dict(yaml.safe_load((PROJECT / "trainer" / "fit-reader.yaml").read_text()))


def test_every_field_is_one_of_trainers() -> None:
    """What a model does not know it drops; so nothing may be lost on the way through."""
    written = manifest()
    read = TrainerV1alpha1TrainJob.from_dict(written)
    assert read is not None
    assert read.to_dict() == written
    misspelt = manifest()
    misspelt["spec"]["trainer"]["numNode"] = 3
    lost = TrainerV1alpha1TrainJob.from_dict(misspelt)
    assert lost is not None and lost.to_dict() != misspelt


def test_the_scripts_options_are_the_scripts_own() -> None:
    known = set(re.findall(r'add_argument\("(--[a-z-]+)"', FIT.read_text()))
    trainer = manifest()["spec"]["trainer"]
    assert trainer["command"] == ["python3", "-m", "torch.distributed.run", "-m", "quarry_training.fit"]
    assert {a.partition("=")[0] for a in trainer["args"]} <= known


def test_the_pod_is_fit_for_a_restricted_namespace() -> None:
    [patch] = manifest()["spec"]["runtimePatches"]
    [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
