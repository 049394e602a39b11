"""Compile the pipelines, run one on this machine, or bring one to a Kubeflow server.

    python -m quarry_kubeflow compile                                   the YAML beside the source
    python -m quarry_kubeflow run NAME --root DIR --set key=value ...   by kfp's local runner
    python -m quarry_kubeflow upload --host URL                         all of them to a Kubeflow server, a version per content
    python -m quarry_kubeflow submit NAME --host URL --set key=value ... [--schedule CRON] [--once CAUSE] [--image USED=WANTED] [--wait]
"""

import argparse
import hashlib
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, local

from . import submit
from .build_index import build_index
from .evaluate_and_release import evaluate_and_release
from .publish_retriever import publish_retriever
from .submit import Submission, SubmitError, Target
from .train_reader import train_reader
from .train_retriever import train_retriever

PIPELINES: dict[str, Callable[..., Any]] = {
    "train-reader": train_reader,
    "train-retriever": train_retriever,
    "publish-retriever": publish_retriever,
    "build-index": build_index,
    "evaluate-and-release": evaluate_and_release,
}
REFUSED = 3


class InputError(Exception):
    """What was set does not fit the pipeline; the message says what would."""


def package(name: str) -> Path:
    """Where a pipeline's compiled YAML lies."""
    return Path(__file__).parent / f"{name.replace('-', '_')}.yaml"


def pipeline(name: str) -> Any:
    """A new kfp pipeline, named and described by its function.

    Made in a thread, not by a decorator: at each setting of a step kfp looks for the source of every frame on the stack, and under
    an import that takes thirty times as long.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(dsl.pipeline, PIPELINES[name]).result()


def compile_all(folder: Path) -> list[Path]:
    """Write every pipeline's YAML into `folder`; returns the paths."""
    paths = []
    for name in PIPELINES:
        path = folder / package(name).name
        compiler.Compiler().compile(pipeline(name), str(path))
        paths.append(path)
    return paths


def inputs(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """key=value pairs as the pipeline's inputs, each of its type.

    Raises:
        InputError: not a pair, not an input of this pipeline, not of its type, or one is missing.
    """
    wanted = inspect.signature(PIPELINES[name]).parameters
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


def run(name: str, root: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one pipeline in this interpreter's environment by kfp's local runner; returns its outputs.

    Steps that an earlier, interrupted run of the same pipeline finished are not run again, but for those that act on the registry.
    One that fails is tried again at once: in a cluster what it lacked may come with time, here its user waits for the reason.

    Raises:
        RuntimeError: a step failed (its log stands above).
    """
    cache = root / "cache" / _identity(name, arguments)
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner=runner, pipeline_root=str(root), raise_on_error=True, enable_caching=True, cache_root=str(cache))
    made = pipeline(name)
    for component in (made.pipeline_spec.root, *made.pipeline_spec.components.values()):
        for task in component.dag.tasks.values():
            task.retry_policy.ClearField("backoff_duration")
    with _temporary_files():
        return dict(made(**arguments).outputs)


@contextmanager
def _temporary_files() -> Iterator[None]:
    """kfp leaves every step's program where temporary files go: for the steps that is a folder which goes when the run has ended."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="quarry-steps-") as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            del os.environ["TMPDIR"]
            if before is not None:
                os.environ["TMPDIR"] = before


def _identity(name: str, arguments: dict[str, Any]) -> str:
    """Changes with anything that the steps' results depend on: inputs, the content of the files they name, and the steps' own code."""
    digest = hashlib.sha256(json.dumps([name, arguments], sort_keys=True).encode())
    named = [Path(str(value)) for _, value in sorted(arguments.items())]
    project = Path(os.environ.get("QUARRY_TRAINING_PYTHON", sys.executable)).parents[2]  # PROJECT/.venv/bin/python
    code = sorted(p for folder in ("src", "models", "policies") for p in (project / folder).rglob("*") if p.suffix in (".py", ".safetensors", ".yaml"))
    for path in [*(p for p in named if p.is_file()), *code]:
        digest.update(hashlib.file_digest(path.open("rb"), "sha256").digest())
    return digest.hexdigest()[:16]


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
    made = submit.submit(Submission(args.name, package(args.name), inputs(args.name, args.set), images, args.once), target, args.schedule)
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
    uploader = verbs.add_parser("upload")
    for verb in (runner, submitter):
        verb.add_argument("name", choices=sorted(PIPELINES))
        verb.add_argument("--set", nargs="*", default=[], metavar="key=value", help="the pipeline's inputs")
    runner.add_argument("--root", type=Path, required=True, help="where the steps' outputs go")
    for verb in (submitter, uploader):
        verb.add_argument("--host", required=True, help="the Kubeflow Pipelines address; a bearer token is read from QUARRY_KFP_TOKEN_FILE")
        verb.add_argument("--namespace", help="the profile, on a multi-user server")
    submitter.add_argument("--service-account", help="the Kubernetes account the steps run as")
    when = submitter.add_mutually_exclusive_group()
    when.add_argument("--once", metavar="CAUSE", help="what it is run for: where a run of it with these inputs is, or ended well, its id is printed instead")
    when.add_argument("--schedule", metavar="CRON", help='six fields, seconds first, e.g. "0 0 2 * * *"')
    submitter.add_argument("--image", nargs="*", default=[], metavar="USED=WANTED", help="the image to run in place of one the YAML names")
    submitter.add_argument("--wait", action="store_true", help="until the run has ended; exit 1 unless it succeeded")
    return made


def main() -> None:
    """Entry point. Exits 2 on bad input, 1 when a run or a server fails, REFUSED when the run went well and the gate refused its model."""
    args = parser().parse_args()
    try:
        if args.verb == "compile":
            print(*compile_all(Path(__file__).parent), sep="\n")
        elif args.verb == "upload":
            target = Target(args.host, args.namespace, submit.token_file())
            print(json.dumps({name: submit.upload(name, package(name), target) for name in PIPELINES}))
        elif args.verb == "run":
            found = run(args.name, args.root, inputs(args.name, args.set))
            print(json.dumps(found))
            if "refused" in found.values():
                print(f"{args.name}: the gate refused; the reasons stand above and in the report, and the champion stays", file=sys.stderr)
                sys.exit(REFUSED)
        else:
            print(json.dumps(submitted(args)))
    except InputError as error:
        print(f"not started: {error}", file=sys.stderr)
        sys.exit(2)
    except (RuntimeError, SubmitError) as error:
        sys.exit(f"{getattr(args, 'name', args.verb)} failed: {error}")


if __name__ == "__main__":
    main()
