"""`python -m quarry_kubeflow compile` writes the pipelines' YAML beside their source; `run NAME --root DIR --set key=value ...` runs one locally."""

import argparse
import sys
from pathlib import Path

from kfp import compiler, local

from .publish_retriever import publish_retriever
from .train_reader import train_reader

PIPELINES = {"train-reader": train_reader, "publish-retriever": publish_retriever}
NUMBERS = {"epochs": float, "learning_rate": float, "max_seconds": float, "min_answered": float, "seed": int}


def compile_all(folder: Path) -> list[Path]:
    """Write every pipeline's YAML into `folder`; returns the paths."""
    paths = []
    for name, pipeline in PIPELINES.items():
        path = folder / f"{name.replace('-', '_')}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths


def run(name: str, root: Path, arguments: dict[str, str]) -> str:
    """Run one pipeline in this interpreter's environment by kfp's local runner; returns its output.

    Raises:
        RuntimeError: a step failed (its log stands above).
    """
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    task = PIPELINES[name](**{key: NUMBERS.get(key, str)(value) for key, value in arguments.items()})
    return str(task.output)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("compile")
    runner = verbs.add_parser("run")
    runner.add_argument("name", choices=sorted(PIPELINES))
    runner.add_argument("--root", type=Path, required=True, help="where the steps' outputs go")
    runner.add_argument("--set", nargs="*", default=[], metavar="key=value", help="the pipeline's inputs")
    args = parser.parse_args()
    if args.verb == "compile":
        print(*compile_all(Path(__file__).parent), sep="\n")
        return
    try:
        print(run(args.name, args.root, dict(a.split("=", 1) for a in args.set)))
    except RuntimeError as error:
        sys.exit(f"{args.name} failed: {error}")


if __name__ == "__main__":
    main()
