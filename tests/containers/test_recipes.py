"""Every Dockerfile keeps the rules of docs/images.md, and the compiled pipelines find their steps in the images they name. Nothing is built here."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import CLONE

RECIPES = {path.parent.name: path for part in ("services", "pipelines") for path in (CLONE / part).glob("*/Dockerfile")}
PACKAGES = CLONE / "pipelines/kubeflow/src/quarry_kubeflow"
LABELS = ("title", "description", "licenses", "version", "revision")
CALLED = re.compile(r"run_step\(\s*\"([a-z_.]+)\"")
KFP = "pipelines/kubeflow/requirements.lock"


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines as one."""
    text = re.sub(r"\\\n\s*", "", RECIPES[name].read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def last_stage(name: str) -> list[tuple[str, str]]:
    found = instructions(name)
    return found[max(i for i, (word, _) in enumerate(found) if word == "FROM") :]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_keeps_the_rules(name: str) -> None:
    found, final = instructions(name), last_stage(name)
    assert final[0] == ("FROM", "${BASE}")
    assert {a for word, a in found if word == "FROM"} <= {"${BASE}", "${BUILDER} AS build", "scratch AS wheels"}
    assert {a.partition("=")[0] for word, a in found[:2] if word == "ARG"} == {"BUILDER", "BASE"}
    assert [a for word, a in final if word == "COPY"] == ["--from=build /app /app"], "nothing of ours but what was installed"
    assert {"ADD", "RUN", "SHELL", "VOLUME", "CMD"} & {word for word, _ in final} == set()
    assert [a for word, a in final if word == "USER"] == ["65532:65532"]
    [entry] = [yaml.safe_load(a) for word, a in final if word == "ENTRYPOINT"]
    assert entry[:2] == ["python3", "-m"]
    [labels] = [a for word, a in final if word == "LABEL"]
    assert all(f"org.opencontainers.image.{label}=" in labels for label in LABELS)
    [install] = [a for word, a in found if word == "RUN"]
    assert all(f"--mount=type=secret,id={secret}" in install for secret in ("index", "ca"))
    copied = [CLONE / source for word, a in found if word == "COPY" and "--from" not in a for source in a.split()[:-1]]
    assert all(path.exists() for path in copied)


def test_torch_is_installed_for_one_image_only() -> None:
    holding = {name for name, path in RECIPES.items() if re.search(r"^\s*\"torch\b", (path.parent / "pyproject.toml").read_text(), re.MULTILINE)}
    assert holding == {"training"}
    [install] = [a for word, a in instructions("training") if word == "RUN"]
    assert "UV_TORCH_BACKEND=cpu" in install


def executors() -> list[tuple[str, dict[str, Any]]]:
    """(pipeline, container) of every step that the compiled pipelines run."""
    found = []
    for path in sorted(PACKAGES.glob("*.yaml")):
        spec = next(d for d in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader) if "deploymentSpec" in d)
        found += [(path.stem, e["container"]) for e in spec["deploymentSpec"]["executors"].values()]
    return found


def test_every_step_is_in_the_image_that_its_pipeline_names() -> None:
    checked = set()
    for pipeline, container in executors():
        name, _, version = container["image"].removeprefix("quarry/").partition(":")
        assert name in RECIPES, f"{pipeline}: nothing builds {container['image']}"
        assert version == "0.1.0", "as the images' label says"
        copied = {a.split()[0] for word, a in instructions(name) if word == "COPY"}
        assert KFP in copied, f"kfp's executor is not in {name}"
        for module in CALLED.findall("\n".join(container["command"])):
            package, *rest = module.split(".")
            folder = RECIPES[name].parent / "src" / package
            assert (folder / ("/".join(rest) + ".py" if rest else "__main__.py")).is_file(), f"{pipeline} runs {module}, which is not in {name}"
            assert str(RECIPES[name].parent.relative_to(CLONE)) in copied
            checked.add(module)
    assert {"quarry_training.fit", "quarry_training.gate", "quarry_ingestion"} <= checked


def test_whoever_lists_the_images_lists_all() -> None:
    workflow = yaml.safe_load((CLONE / ".github/workflows/images.yml").read_text())
    for job in workflow["jobs"].values():
        assert set(job["strategy"]["matrix"]["image"]) == RECIPES.keys()
    [loaded] = re.findall(r'^images="([a-z ]+)"', (CLONE / "k8s/cluster.sh").read_text(), re.MULTILINE)
    assert {*loaded.split(), "airflow"} == RECIPES.keys(), "airflow where it is not left out"
    [values] = re.findall(r"values ((?:'\w+'(?:, )?)+)", (CLONE / "Jenkinsfile").read_text())
    assert set(re.findall(r"\w+", values)) == RECIPES.keys()


def test_the_readme_of_the_images_tells_each() -> None:
    told = re.findall(r"^\| `quarry/(\w+)` \|", (CLONE / "docs/images.md").read_text(), re.MULTILINE)
    assert set(told) == RECIPES.keys()
    assert Path(CLONE / "pipelines/training/models/base-reader/weights.safetensors").exists(), "training's image copies it"
