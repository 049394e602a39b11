"""Whether a challenger may replace the champion: a written policy over both models' results on the same questions.

The command evaluates both, judges (judge.py), and writes gate.json, report.md and its plots; exit code 0 passed, 1 refused, 2 could not judge.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mlflow.exceptions import MlflowException
from quarry_contract.manifests import MODEL_MANIFEST, ManifestError, ModelManifest, read_manifest

from . import squad
from .evaluate import evaluate, load_set, write
from .judge import GateError, judge
from .policy import POLICIES, Policy, PolicyError, load_policy
from .registry import champion_of, fetch
from .report import write_report
from .results import Evaluation
from .verdict import Verdict

COULD_NOT_JUDGE = 2


def run(challenger: Path, champion: Path | None, data: Path, policy_file: Path | None, out: Path) -> Verdict:
    """Evaluate, judge, and write gate.json (last), report.md, its plots, and each model's evaluation under `out`.

    Raises:
        GateError, PolicyError, ManifestError, DatasetError: it could not be judged.
    """
    (out / "gate.json").unlink(missing_ok=True)  # an older verdict must not be taken for this one's
    kind, *_ = [_kind(folder) for folder in (challenger, champion) if folder]
    policy = load_policy(policy_file or POLICIES / f"{kind}.yaml")
    questions = load_set(data)
    ours = evaluate(challenger, questions, policy.passages)
    theirs = evaluate(champion, questions, policy.passages) if champion else None
    verdict = judge(ours, theirs, policy)
    out.mkdir(parents=True, exist_ok=True)
    for name, evaluation in (("challenger", ours), ("champion", theirs)):
        if evaluation:
            write(evaluation, out / f"{name}.json", out / f"{name}-questions.jsonl")
    write_report(verdict, ours, theirs, out)
    (out / "gate.json").write_text(json.dumps(to_dict(verdict, ours, theirs, policy), indent=1))
    return verdict


def _kind(folder: Path) -> str:
    try:
        return read_manifest(folder / MODEL_MANIFEST, ModelManifest).kind
    except ManifestError as error:
        raise GateError(f"{folder} is no model artefact: {error}") from error


def to_dict(verdict: Verdict, challenger: Evaluation, champion: Evaluation | None, policy: Policy) -> dict[str, object]:
    """gate.json: the verdict, why, what was judged and by which policy."""
    return {
        "verdict": "passed" if verdict.passed else "refused",
        "reasons": [f.reason for f in verdict.refusals],
        "data_digest": challenger.data_digest,
        "challenger": challenger.artefact_digest,
        "champion": champion.artefact_digest if champion else None,
        "findings": [asdict(f) for f in verdict.findings],
        "policy": asdict(policy),
    }


def folder_of(reference: str, home: Path | None) -> Path:
    """The artefact folder of a path or of models:/name/N, models:/name@alias; the latter is downloaded under `home`."""
    if not reference.startswith("models:/"):
        return Path(reference)
    if home is None:
        raise GateError(f"{reference} is fetched from the registry: say where to with --home")
    return fetch(reference, home)[1]


def main() -> None:
    """`python -m quarry_training.gate`; the registry for models:/ references is MLFLOW_TRACKING_URI."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--challenger", required=True, help="artefact folder, models:/name/N or models:/name@alias")
    against = parser.add_mutually_exclusive_group()
    against.add_argument("--champion", help="likewise; without one, only the policy's floors are judged")
    against.add_argument("--against-champion", action="store_true", help="the registry's present champion, if the challenger's model has one")
    parser.add_argument("--data", type=Path, required=True, help="SQuAD file that neither was trained on")
    parser.add_argument("--policy", type=Path, help="default: policies/reader.yaml or retriever.yaml, by the challenger's kind")
    parser.add_argument("--home", type=Path, help="where models from the registry are kept")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        named = champion_of(args.challenger) if args.against_champion else args.champion
        challenger, champion = (folder_of(x, args.home) if x else None for x in (args.challenger, named))
        assert challenger is not None
        verdict = run(challenger, champion, args.data, args.policy, args.out)
    except (GateError, PolicyError, ManifestError, squad.DatasetError, MlflowException, OSError) as error:
        print(f"could not judge: {error}", file=sys.stderr)
        sys.exit(COULD_NOT_JUDGE)
    print("passed" if verdict.passed else "refused")
    for finding in verdict.findings:
        if finding.status != "passed":
            print(f"  {'refused' if finding.status == 'refused' else 'not judged'}: {finding.reason}")
    print(f"report: {args.out / 'report.md'}")
    sys.exit(0 if verdict.passed else 1)


if __name__ == "__main__":
    main()
