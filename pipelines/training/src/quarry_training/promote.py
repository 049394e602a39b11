"""Make a model version the champion: only with a passed gate verdict on that very version, or as the first of its model.

`record` stores the gate's verdict file beside the version and its SHA-256 in the version's tags; `promote` reads the stored file,
checks it against the tag, and that it speaks of this artefact and of the champion that is to be replaced.

A verdict is the gate's JSON object {"verdict": "passed" or "refused", "challenger": digest, "champion": digest or null, ...};
the digests are formats.artefact_digest of the manifests, the tag `artefact_digest` of the versions.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from quarry_contract.manifests import ManifestError, digest_file

from .registry import CHALLENGER, CHAMPION, DIGEST_TAG, RegistryError, aliases, check_whole, registry, resolve, upload, uri_of

VERDICT_TAG = "gate_verdict"  # passed or refused
VERDICT_DIGEST_TAG = "gate_verdict_digest"
PROMOTED_TAG = "promoted"
VERDICT_FOLDER = "gate"  # in the run's artefacts


def record(reference: str, verdict: Path) -> bool:
    """Put the gate's verdict on a model version; returns whether it passed.

    Raises:
        RegistryError: the file is no verdict, or one on another artefact.
    """
    content = _read(verdict)
    digest = digest_file(verdict).sha256
    with registry() as client, TemporaryDirectory() as scratch:
        version = resolve(client, reference)
        if content["challenger"] != version.tags.get(DIGEST_TAG):
            raise RegistryError(f"the verdict is on another artefact than {uri_of(version)}: run the gate on this version")
        copy = Path(scratch) / f"{digest}.json"
        copy.write_bytes(verdict.read_bytes())
        upload(client, version.run_id, VERDICT_FOLDER, {copy.name: copy})
        client.set_model_version_tag(version.name, version.version, VERDICT_DIGEST_TAG, digest)
        client.set_model_version_tag(version.name, version.version, VERDICT_TAG, content["verdict"])
    return bool(content["verdict"] == "passed")


def promote(reference: str, bootstrap: bool = False) -> str:
    """Point the alias champion at a version; returns models:/name/N. Promoting the champion again changes nothing.

    `bootstrap` allows a version without verdict while its model has never had a champion.

    Raises:
        RegistryError: the version may not become champion; the message says why.
        ManifestError: its artefact is not whole.
    """
    with registry() as client:
        version = resolve(client, reference)
        there = aliases(client, version.name)
        if there.get(CHAMPION) != str(version.version):
            check_whole(client, version)
            reason = _grounds(client, version, there.get(CHAMPION), bootstrap)
            client.set_model_version_tag(version.name, version.version, PROMOTED_TAG, reason)
            client.set_registered_model_alias(version.name, CHAMPION, version.version)
        if there.get(CHALLENGER) == str(version.version):
            client.delete_registered_model_alias(version.name, CHALLENGER)
        return uri_of(version)


def _grounds(client: MlflowClient, version: ModelVersion, champion: str | None, bootstrap: bool) -> str:
    """Why the version may become champion.

    Raises:
        RegistryError: it may not.
    """
    others = [v for v in client.search_model_versions(f"name='{version.name}'") if v.version != version.version]
    if VERDICT_TAG not in version.tags:
        if bootstrap and champion is None and not any(PROMOTED_TAG in v.tags for v in others):
            return "first version"
        raise RegistryError(f"{uri_of(version)} has no gate verdict: run the gate on it, then record its verdict with `python -m quarry_training.promote`")
    digest = version.tags.get(VERDICT_DIGEST_TAG, "")
    content = _stored(client, version, digest)
    if content["verdict"] != "passed" or version.tags[VERDICT_TAG] != "passed":
        raise RegistryError(f"the gate refused {uri_of(version)}: the reasons are in {VERDICT_FOLDER}/{digest}.json of its run")
    replaced = next((v.tags.get(DIGEST_TAG) for v in others if str(v.version) == champion), None)
    if content["challenger"] != version.tags.get(DIGEST_TAG) or content["champion"] != replaced:
        raise RegistryError(f"the verdict on {uri_of(version)} compares other artefacts than this one and the present champion: run the gate again")
    return f"gate {digest}"


def _stored(client: MlflowClient, version: ModelVersion, digest: str) -> dict[str, Any]:
    with TemporaryDirectory() as scratch:
        if f"{VERDICT_FOLDER}/{digest}.json" not in [f.path for f in client.list_artifacts(version.run_id, VERDICT_FOLDER)]:
            raise RegistryError(f"the gate verdict of {uri_of(version)} is not stored beside it: record it with `python -m quarry_training.promote`")
        path = Path(client.download_artifacts(version.run_id, f"{VERDICT_FOLDER}/{digest}.json", scratch))
        if digest_file(path).sha256 != digest:
            raise RegistryError(f"the gate verdict of {uri_of(version)} does not have the digest in its tag: it was changed; run the gate again")
        return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path.name} is not a gate verdict: it cannot be read as JSON") from error
    form = {"verdict": str, "challenger": str, "champion": str | None}
    if not isinstance(content, dict) or not all(k in content and isinstance(content[k], kind) for k, kind in form.items()):
        raise RegistryError(f"{path.name} is not a gate verdict: it needs verdict, challenger and champion")
    if content["verdict"] not in ("passed", "refused"):
        raise RegistryError(f"{path.name} is not a gate verdict: verdict must be passed or refused")
    return content


def main() -> None:
    """`python -m quarry_training.promote VERSION [--verdict FILE | --bootstrap]`; the server is MLFLOW_TRACKING_URI."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", help="models:/name/N or models:/name@challenger")
    parser.add_argument("--verdict", type=Path, help="the gate's verdict file: recorded first")
    parser.add_argument("--bootstrap", action="store_true", help="the first champion of its model needs no verdict")
    parser.add_argument("--record-only", action="store_true", help="record the verdict, promote nothing")
    args = parser.parse_args()
    try:
        passed = record(args.version, args.verdict) if args.verdict else None
        if args.record_only:
            print(json.dumps({"model_version": args.version, "passed": passed}))
        else:
            print(json.dumps({"model_version": promote(args.version, args.bootstrap), "alias": CHAMPION}))
    except ManifestError as error:
        sys.exit(f"not promoted: {error}")


if __name__ == "__main__":
    main()
