#!/usr/bin/env python3
"""Stands in for a command that reaches the cloud: writes down how it was called and answers as the real one would. Run by its name on PATH."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
DIGEST = "sha256:" + "d" * 64
MODELS = {"aaaaaaaaaaaa": "1", "bbbbbbbbbbbb": "2"}  # release -> version of its reader; both have retriever 1


def release(path: Path, identity: str) -> None:
    """What lies in the artefacts' bucket."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {"reader": f"models:/reader/{MODELS[identity]}", "reader_digest": MODELS[identity], "retriever": "models:/retriever/1", "retriever_digest": "r"}
    path.write_text(json.dumps({"release_id": identity, **parts}), encoding="utf-8")


if name == "make" and arguments == ["--silent", "projects"]:  # costs nothing and asks nobody: the real one
    sys.exit(subprocess.run([os.environ["REAL_MAKE"], *arguments], check=False).returncode)
with Path(os.environ["CALLS"]).open("a", encoding="utf-8") as calls:
    print(json.dumps([name, *arguments]), file=calls)
if " ".join([name, *arguments]).startswith(os.environ.get("FAILS", "nothing fails")):
    sys.exit(f"{name}: told to fail")
if name == "make" and arguments[:1] == ["deploy"]:  # what it changes is told by the helm that it calls
    sys.exit(subprocess.run([os.environ["REAL_MAKE"], "--silent", *arguments], check=False).returncode)
if "port-forward" in arguments:
    print("Forwarding from 127.0.0.1:40001 -> " + arguments[-1].lstrip(":"), flush=True)
    time.sleep(60)
elif (name, *arguments[:2], arguments[-1:]) == ("aws", "s3", "cp", ["-"]):
    print("2026-01-01T01-45-00Z")  # the name of the last whole backup
elif (name, *arguments[:2]) == ("aws", "s3", "cp"):
    release(Path(arguments[-1]), arguments[-2].split("/")[-2])
elif (name, *arguments[:2]) == ("aws", "secretsmanager", "get-secret-value"):
    print("the-key")
elif (name, *arguments[:1]) == ("docker", "inspect"):
    print(f"elsewhere/{arguments[-1].split('/', 1)[1].split(':')[0]}@{DIGEST}\n{arguments[-1].rpartition(':')[0]}@{DIGEST}")
elif (name, arguments[1:2]) == ("terraform", ["show"]):
    print("No changes.")
elif name == "make" and arguments[:1] == ["images"]:
    lists = Path(os.environ["QUARRY_HOME"], "images")
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{arguments[1].removeprefix('I=')}.spdx.json").write_text("{}", encoding="utf-8")
elif name == "make" and arguments[:1] == ["canary-watch"]:
    print('{"verdict": "kept"}')
