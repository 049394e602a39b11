"""Build our images with docker or buildah, whichever works here, and write a list of what is in each (SPDX).

    images.py [NAME...] [--builder REF] [--base REF] [--tag TAG] [--sbom]

As many are built at a time as there are processors. Prints a line of JSON per image: its name, and its size in MB, unpacked, over the
base. docs/images.md says what BUILDER and BASE must be.
Where packages come from (PIP_* and UV_* variables, the certificates) is handed to the build as secrets and is in no image. State lies in
QUARRY_HOME/images. Needs the contract's environment only; syft, for --sbom, comes from tests'.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from processes import CLONE, HOME

FOLDERS = {path.parent.name: path.parent.relative_to(CLONE) for part in ("services", "pipelines") for path in sorted((CLONE / part).glob("*/Dockerfile"))}
WORK = HOME / "images"
INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_TORCH_BACKEND")
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class Wanted:
    """What to build and from what; an empty reference is the Dockerfile's own."""

    names: list[str]
    builder: str
    base: str
    tag: str
    sbom: bool


def tool() -> str:
    """`docker` when its daemon answers, else `buildah`.

    Raises:
        SystemExit: there is neither.
    """
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        return "docker"
    if shutil.which("buildah"):
        return "buildah"
    sys.exit("neither a docker daemon nor buildah is here: install docker, or `apt-get install buildah`")


def run(*command: str, quiet: bool = False) -> str:
    """A command's output; its errors are shown as they come, or with `quiet` only when it fails.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run(command, cwd=CLONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT if quiet else None, text=True, check=False, env=environment())
    if done.returncode:
        sys.exit(f"failed: {shlex.join(command)}\n{done.stdout[-3000:]}")
    return done.stdout


def environment() -> dict[str, str]:
    """Temporary files and caches in our state folder; a build that needs no user namespace, so that it works in a container too."""
    return {"BUILDAH_ISOLATION": "chroot", "DOCKER_BUILDKIT": "1", **os.environ, "TMPDIR": str(WORK)}


def share_cache() -> None:
    """buildah keeps the cache `quarry-uv` of our Dockerfiles in one of these folders, by version: let that be the one `make envs` fills."""
    if "UV_CACHE_DIR" not in os.environ:
        return
    Path(os.environ["UV_CACHE_DIR"]).mkdir(parents=True, exist_ok=True)
    for name in ("buildah-cache", f"buildah-cache-{os.getuid()}"):
        cache = WORK / name / "quarry-uv"
        if not cache.exists():
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.unlink(missing_ok=True)
            cache.symlink_to(os.environ["UV_CACHE_DIR"])


@contextlib.contextmanager
def secrets() -> Iterator[list[str]]:
    """Arguments that hand over where packages come from."""
    certificates = next((os.environ[name] for name in CERTIFICATES if Path(os.environ.get(name, "")).is_file()), os.devnull)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        index, ca = Path(folder) / "index", Path(folder) / "ca"
        index.write_text("".join(f"{name}={shlex.quote(os.environ[name])}\n" for name in INDEX_VARIABLES if os.environ.get(name)))
        ca.write_bytes(Path(certificates).read_bytes())
        yield ["--secret", f"id=index,src={index}", "--secret", f"id=ca,src={ca}"]


def build(by: str, name: str, wanted: Wanted) -> str:
    """Build one image, and its list; its full name."""
    image = f"quarry/{name}:{wanted.tag}"
    arguments = {"BUILDER": wanted.builder, "BASE": wanted.base, "REVISION": revision()}
    given = [x for key, value in arguments.items() if value for x in ("--build-arg", f"{key}={value}")]
    extra = ["--layers=false"] if by == "buildah" else []
    if wheels := next((os.environ[name] for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS") if Path(os.environ.get(name) or "/nowhere").is_dir()), None):
        extra += ["--build-context", f"wheels={wheels}"]
    with secrets() as secret:
        run(by, "build", *extra, *secret, *given, "--file", str(FOLDERS[name] / "Dockerfile"), "--tag", image, ".", quiet=True)
    if wanted.sbom:
        sbom(by, image, WORK / f"{name}.spdx.json")
    return image


def revision() -> str:
    """The commit, where there is git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CLONE, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def size(by: str, image: str) -> int:
    """Bytes that our own stage adds to the base, unpacked: its layers are the last ones, of which a Dockerfile of ours has one with files."""
    if by == "docker":
        layers = run("docker", "history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", "--no-trunc", image).splitlines()
        return sum(int(line.split()[0]) for line in layers if "/app" in line)
    manifest = json.loads(run("buildah", "inspect", "--type", "image", "--format", "{{.Manifest}}", image))
    return int(manifest["layers"][-1]["size"])


def sbom(by: str, image: str, into: Path) -> None:
    """Everything in an image, as SPDX.

    Raises:
        SystemExit: syft is not there.
    """
    syft = shutil.which("syft") or str(CLONE / "tests/.venv/bin/syft")
    if not Path(syft).is_file():
        sys.exit("syft is missing: `make envs P=tests` brings it")
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        archive = f"{folder}/image.tar"
        if by == "docker":
            run("docker", "save", "--output", archive, image)
        else:
            run("buildah", "push", "--quiet", image, f"docker-archive:{archive}")
        run("env", "SYFT_CHECK_FOR_APP_UPDATE=false", syft, "scan", f"docker-archive:{archive}", "--quiet", "--output", f"spdx-json={into}")


def parse() -> Wanted:
    """The command line."""
    parser = argparse.ArgumentParser(prog="images.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FOLDERS))
    parser.add_argument("--builder", default="", help="image with Python 3.11, pip and a shell")
    parser.add_argument("--base", default="", help="image with the same Python")
    parser.add_argument("--tag", default="dev")
    parser.add_argument("--sbom", action="store_true", help="write QUARRY_HOME/images/NAME.spdx.json")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - FOLDERS.keys()):
        parser.error(f"no such image: {', '.join(unknown)}; there are {', '.join(FOLDERS)}")
    return Wanted(args.names or list(FOLDERS), args.builder, args.base, args.tag, args.sbom)


def main() -> None:
    """Entry point."""
    wanted = parse()
    by = tool()
    WORK.mkdir(parents=True, exist_ok=True)
    share_cache()
    with ThreadPoolExecutor(min(len(wanted.names), os.cpu_count() or 1)) as builders:
        for image in builders.map(lambda name: build(by, name, wanted), wanted.names):
            print(json.dumps({"image": image, "mb_over_base": round(size(by, image) / 1e6, 1)}), flush=True)


if __name__ == "__main__":
    main()
