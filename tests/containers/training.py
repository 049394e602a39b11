"""The image of training, built and tried: `python -m containers.training` (`make training-image`). Too slow for the tests: it holds torch.

Steps of the compiled pipelines run in it as Kubeflow's launcher starts them, by the command in the YAML, without root, network or a
writable root file system. Prints a line of JSON: megabytes over the base, and the files that each step wrote.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from e2e.conftest import CLONE

from .engine import BUILDER, TAG, Engine, missing

PIPELINES = CLONE / "pipelines/kubeflow/src/quarry_kubeflow"
# Pipeline, step, its parameters, the artefact it writes.
STEPS = (
    ("train_reader", "check-dataset", {"data": "/examples/train.json", "held_out": ""}, "dataset"),
    ("publish_retriever", "export-packaged-retriever", {"base": "minilm"}, "artefact"),
)


def step(engine: Engine, pipeline: str, name: str, parameters: dict[str, Any], artefact: str) -> list[str]:
    """Run one step; the files in its artefact."""
    compiled = next(d for d in yaml.safe_load_all((PIPELINES / f"{pipeline}.yaml").read_text()) if "components" in d)
    executor = compiled["components"][f"comp-{name}"]["executorLabel"]
    container = compiled["deploymentSpec"]["executors"][executor]["container"]
    out = engine.root / name
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    given = {
        "inputs": {"parameterValues": parameters},
        "outputs": {
            "artifacts": {artefact: {"artifacts": [{"name": artefact, "uri": f"/out/{artefact}", "type": {"schemaTitle": "system.Artifact"}}]}},
            "outputFile": "/out/executor_output.json",
        },
    }
    image = container["image"].partition(":")[0]
    mounts = [f"--volume={CLONE / 'examples/questions'}:/examples:ro", f"--volume={out}:/out"]
    [entry, *rest] = container["command"]
    arguments = [a.replace("{{$}}", json.dumps(given)) for a in container["args"]]
    sealed = ["--rm", "--read-only", "--tmpfs=/tmp", "--network=none", "--cap-drop=all", "--security-opt=no-new-privileges"]
    engine.podman("run", *sealed, *mounts, f"--entrypoint={entry}", f"localhost/{image}:{TAG}", *rest, *arguments)
    return sorted(str(p.relative_to(out / artefact)) for p in (out / artefact).rglob("*") if p.is_file())


def main() -> None:
    """Entry point."""
    if why := missing():
        sys.exit(f"the image cannot be run here: {why}")
    engine = Engine.at(Path(tempfile.mkdtemp(prefix="quarry-training-")))
    try:
        engine.make_base("builder", BUILDER)
        built = engine.build("training", base="builder")
        print(json.dumps({"mb_over_base": built, "steps": {name: step(engine, pipeline, name, given, made) for pipeline, name, given, made in STEPS}}))
    finally:
        engine.close()


if __name__ == "__main__":
    main()
