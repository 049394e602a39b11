"""A copy in a folder and in S3 (a real moto server), whole or not named; the restore itself is drilled in tests/delivery."""

import json
import subprocess
from pathlib import Path
from typing import Any

from quarry_contract.manifests import digest_file

from . import forked
from .test_artefacts import home  # noqa: F401 - fixture
from .test_s3 import BUCKET, s3, server  # noqa: F401 - fixtures

AT = f"s3://{BUCKET}/backups"


def back_up(*arguments: object) -> "subprocess.CompletedProcess[str]":
    done = forked.run("quarry_ingestion.backup", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_in_s3_the_last_whole_copy_is_named_and_is_what_a_folder_holds(home: Path, s3: Any, tmp_path: Path) -> None:  # noqa: F811
    assert back_up(home, tmp_path / "copy").returncode == 0
    done = back_up(home, AT)
    assert done.returncode == 0, done.stderr
    name = json.loads(done.stdout)["backup"]
    assert s3.get_object(Bucket=BUCKET, Key="backups/latest")["Body"].read().decode() == name
    keys = {o["Key"] for o in s3.list_objects_v2(Bucket=BUCKET, Prefix=f"backups/{name}/")["Contents"]}
    folder = {str(p.relative_to(tmp_path / "copy")) for p in (tmp_path / "copy").rglob("*") if p.is_file()}
    assert {key.removeprefix(f"backups/{name}/") for key in keys} == folder
    manifest = json.loads(s3.get_object(Bucket=BUCKET, Key=f"backups/{name}/backup.json")["Body"].read())
    assert {"ledger.db"} < manifest["files"].keys()
    for file, digest in manifest["files"].items():
        s3.download_file(BUCKET, f"backups/{name}/{file}", str(tmp_path / "fetched"))
        assert digest_file(tmp_path / "fetched").sha256 == digest


def test_a_copy_that_cannot_be_is_told_in_a_line(home: Path, s3: Any) -> None:  # noqa: F811
    done = back_up(home, "s3://no-such-bucket/backups")
    assert done.returncode == 1
    assert "the backup is not whole: " in done.stderr
    assert "/ledger.db cannot be stored, s3://no-such-bucket/backups/" in done.stderr
    for wrong, says in (((home,), "say from where to where"), ((home, "s3://"), "is not s3://bucket/prefix"), ((home / "documents", AT), "has no ledger.db")):
        refused = back_up(*wrong)
        assert refused.returncode == 1
        assert says in refused.stderr
