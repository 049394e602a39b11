"""Compile the pipelines, run one on this machine, or bring one to a Kubeflow server.

    python -m quarry_kubeflow compile                                   the YAML beside the source
    python -m quarry_kubeflow run NAME --root DIR --set key=value ...   by kfp's local runner
    python -m quarry_kubeflow submit NAME --host URL --set key=value ... [--schedule CRON] [--image USED=WANTED] [--wait]
"""

import argparse
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfp import compiler, local

from . import submit
from .publish_retriever import publish_retriever
from .submit import Submission, SubmitError, Target
from .train_reader import train_reader

PIPELINES = {"train-reader": train_reader, "publish-retriever": publish_retriever}


class InputError(Exception):
    """What was set does not fit the pipeline; the message says what would."""


def package(name: str) -> Path:
    """Where a pipeline's compiled YAML lies."""
    return Path(__file__).parent / f"{name.replace('-', '_')}.yaml"


def compile_all(folder: Path) -> list[Path]:
    """Write every pipeline's YAML into `folder`; returns the paths."""
    paths = []
    for name, pipeline in PIPELINES.items():
        path = folder / package(name).name
        compiler.Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths


def inputs(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """key=value pairs as the pipeline's inputs, each of its type.

    Raises:
        InputError: not a pair, not an input of this pipeline, not of its type, or one is missing.
    """
    wanted = inspect.signature(PIPELINES[name].pipeline_func).parameters
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in wanted:
            raise InputError(f"{name} does not take {pair!r}; it takes {', '.join(wanted)}")
        kind = wanted[key].annotation
        try:
            given[key] = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            raise InputError(f"{key} must be a {kind.__name__}, not {value!r}") from None
    if missing := [k for k, p in wanted.items() if p.default is p.empty and k not in given]:
        raise InputError(f"{name} needs {', '.join(missing)}")
    return given


def run(name: str, root: Path, arguments: dict[str, Any]) -> str:
    """Run one pipeline in this interpreter's environment by kfp's local runner; returns its output.

    Raises:
        RuntimeError: a step failed (its log stands above).
    """
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    return str(PIPELINES[name](**arguments).output)


def submitted(args: argparse.Namespace) -> dict[str, str]:
    """Submit as the command line says; with --wait, the state it ended in stands beside the ids.

    Raises:
        InputError, SubmitError: it was not, or what was submitted did not end well.
    """
    for pair in args.image:
        if "=" not in pair:
            raise InputError(f"--image takes USED=WANTED, not {pair!r}")
    target = Target(args.host, args.namespace, submit.token_file(), args.service_account)
    images = dict(pair.split("=", 1) for pair in args.image)
    made = submit.submit(Submission(args.name, package(args.name), inputs(args.name, args.set), images), target, args.schedule)
    if args.wait and "run" in made:
        made["state"] = submit.wait(made["run"], target)
        if made["state"] != "SUCCEEDED":
            raise SubmitError(f"run {made['run']} ended {made['state']}: see its steps in the Kubeflow page")
    return made


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = made.add_subparsers(dest="verb", required=True)
    verbs.add_parser("compile")
    runner, submitter = verbs.add_parser("run"), verbs.add_parser("submit")
    for verb in (runner, submitter):
        verb.add_argument("name", choices=sorted(PIPELINES))
        verb.add_argument("--set", nargs="*", default=[], metavar="key=value", help="the pipeline's inputs")
    runner.add_argument("--root", type=Path, required=True, help="where the steps' outputs go")
    submitter.add_argument("--host", required=True, help="the Kubeflow Pipelines address; a bearer token is read from QUARRY_KFP_TOKEN_FILE")
    submitter.add_argument("--namespace", help="the profile, on a multi-user server")
    submitter.add_argument("--service-account", help="the Kubernetes account the steps run as")
    submitter.add_argument("--schedule", metavar="CRON", help='six fields, seconds first, e.g. "0 0 2 * * *"')
    submitter.add_argument("--image", nargs="*", default=[], metavar="USED=WANTED", help="the image to run in place of one the YAML names")
    submitter.add_argument("--wait", action="store_true", help="until the run has ended; exit 1 unless it succeeded")
    return made


def main() -> None:
    """Entry point. Exits 2 on bad input, 1 when a run or a server fails."""
    args = parser().parse_args()
    try:
        if args.verb == "compile":
            print(*compile_all(Path(__file__).parent), sep="\n")
        elif args.verb == "run":
            print(run(args.name, args.root, inputs(args.name, args.set)))
        else:
            print(json.dumps(submitted(args)))
    except InputError as error:
        print(f"not started: {error}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, SubmitError) as error:
        sys.exit(f"{args.name} failed: {error}")


if __name__ == "__main__":
    main()
