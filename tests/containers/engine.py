"""podman and buildah with a store, a network and settings of their own, so that nothing of the machine's is touched; and images built in it."""

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.conftest import CLONE
from manifests.chart import HELM

TAG = "test"
# Where this much memory is free the store lies in it: its images are some GB of small files, written several times and then removed.
IN_MEMORY_GB = 8
MOUNTED = "quarry-containers-"  # and the process, as the name of the file system
NEEDED = ("buildah", "podman", "runc", "mmdebstrap", "catatonit", "ip")
LIBRARIES = {"netavark": "/usr/lib/podman/netavark", "aardvark-dns": "/usr/lib/podman/aardvark-dns"}
# What a Python without a shell needs; and with what packages are installed.
BASE = "python3-minimal,libpython3-stdlib,libstdc++6,tzdata,netbase,media-types,ca-certificates"
BUILDER = "python3,python3-pip,libstdc++6,ca-certificates,dash,coreutils"
CONTAINERS_CONF = """
[containers]
default_ulimits = []
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{root}/tmp_dir"
[network]
network_backend = "netavark"
network_config_dir = "{root}/networks"
"""
STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{root}/store"
runroot = "{root}/run"
"""


def missing() -> str:
    """Why containers cannot be run here; empty when they can."""
    if os.geteuid() != 0:
        return "needs root: podman's networks and mmdebstrap"
    away = [name for name in NEEDED if shutil.which(name) is None] + [name for name, path in LIBRARIES.items() if not Path(path).exists()]
    if not Path(HELM).exists():
        away.append("helm (make test P=tests fetches it)")
    return f"not installed: {', '.join(away)}" if away else ""


@dataclass(frozen=True)
class Engine:
    """Commands against one store."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, root: Path) -> "Engine":
        """Write its settings under `root`, which is in memory where there is plenty."""
        _unmount_forgotten()
        if int(_meminfo()["MemAvailable"].split()[0]) > IN_MEMORY_GB * 2**20:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={IN_MEMORY_GB}g", f"{MOUNTED}{os.getpid()}", str(root)], check=True)
        for name in ("tmp", "networks"):
            (root / name).mkdir()
        settings = {"CONTAINERS_CONF": CONTAINERS_CONF, "CONTAINERS_STORAGE_CONF": STORAGE_CONF}
        for name, text in settings.items():
            (root / name).write_text(text.format(root=root))
        return cls(root, {**os.environ, **{name: str(root / name) for name in settings}, "TMPDIR": str(root / "tmp"), "QUARRY_HOME": str(root / "home")})

    def run(self, *command: str, check: bool = True, timeout: float = 1200) -> "subprocess.CompletedProcess[str]":
        """A command to its end."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout)
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        return done

    def podman(self, *arguments: str, check: bool = True) -> str:
        """What podman prints."""
        return self.run("podman", *arguments, check=check).stdout.strip()

    def inspect(self, container: str) -> dict[str, Any]:
        """All that podman knows of a container."""
        return dict(json.loads(self.podman("inspect", container))[0])

    def image(self, name: str) -> dict[str, Any]:
        """And of an image of ours."""
        return dict(json.loads(self.podman("image", "inspect", f"localhost/quarry/{name}:{TAG}"))[0])

    def make_base(self, name: str, packages: str) -> None:
        """An image of Debian's packages, unpacked and nothing else."""
        archive = self.root / f"{name}.tar"
        merged = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"
        self.run("mmdebstrap", "--quiet", "--mode=root", "--variant=extract", merged, f"--include={packages}", "bookworm", str(archive))
        self.podman("import", "--quiet", str(archive), f"localhost/{name}:{TAG}")
        archive.unlink()

    def build(self, *names: str, base: str = "base") -> dict[str, float]:
        """Our images on these bases, as `make images` does it; megabytes of each over its base."""
        python = str(CLONE / "services/contract/.venv/bin/python")
        bases = ["--builder", f"localhost/builder:{TAG}", "--base", f"localhost/{base}:{TAG}"]
        done = self.run(python, str(CLONE / "local/images.py"), *names, *bases, "--tag", TAG)
        return {line["image"]: line["mb_over_base"] for line in map(json.loads, done.stdout.splitlines())}

    def build_all(self) -> dict[str, float]:
        """Both bases, then what the pods need."""
        with ThreadPoolExecutor(2) as both:
            list(both.map(self.make_base, ("builder", "base"), (BUILDER, BASE)))
        return self.build("gateway", "reader", "retriever", "ingestion")

    def close(self) -> None:
        """Leave nothing: neither processes nor mounts nor files."""
        for command in (
            ("pod", "rm", "--force", "--time=0", "--all"),
            ("rm", "--force", "--time=0", "--all"),
            ("network", "prune", "--force"),
        ):
            self.podman(*command, check=False)
        _unmount(self.root)
        shutil.rmtree(self.root, ignore_errors=True)


def _meminfo() -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())


def _mounts() -> list[tuple[str, Path]]:
    """(source, where) of all file systems, the innermost last."""
    return [(line.split()[0], Path(line.split()[1])) for line in Path("/proc/mounts").read_text().splitlines()]


def _unmount(root: Path) -> None:
    """Everything at and under it."""
    for _, where in reversed(_mounts()):
        if where.is_relative_to(root):
            subprocess.run(["umount", "--lazy", str(where)], check=False, capture_output=True)


def _unmount_forgotten() -> None:
    """The memory of a session that was killed."""
    for source, where in _mounts():
        if source.startswith(MOUNTED) and not Path("/proc", source.removeprefix(MOUNTED)).exists():
            _unmount(where)
