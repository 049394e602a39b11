"""A release in an S3 stand-in, and its services as pods on a private network."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from e2e.conftest import CLONE
from e2e.machine import QUESTIONS, WORDS, bind_parts, ingest, make_models
from manifests.chart import CHART, render
from manifests.schemas import Manifest

from .convert import VALUES, Pod, convert
from .engine import TAG, Engine

NETWORK = "quarry"
BUCKET = "artefacts"
READY_SEC = 90
CONNECT_SEC = 3  # what is not there any more does not say so
ANSWER_SEC = 30
MOTO = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
app = DomainDispatcherApplication(create_backend_app)
make_server("127.0.0.1", 0, app, threaded=True, fd=int(sys.argv[1])).serve_forever()
"""


@dataclass
class World:
    """The stack: `pods` that stay and those that run `once`, by their names without the release. State is in `folder`."""

    engine: Engine
    folder: Path
    release: str
    endpoint: str
    pods: dict[str, Pod] = field(default_factory=dict)
    once: dict[str, Pod] = field(default_factory=dict)

    @property
    def bucket(self) -> str:
        return f"s3://{BUCKET}/releases"

    def manifests(self) -> list[Manifest]:
        """What helm renders for a laptop, with this release, these images and this store; without operators and volumes, which podman has not."""
        given = VALUES | {
            "releases": {"live": {"manifest": (self.folder / "releases" / self.release / "release.json").read_text()}},
            "artefacts": {"prefix": self.bucket, "environment": aws(self.endpoint), "existingSecret": ""},
            "images": {"tag": TAG},
            "test": {"question": QUESTIONS[0]},
        } | {part: {"lameDuckSec": 1} for part in ("gateway", "retriever", "reader")}
        return render(given, [CHART / "values-local.yaml"])

    def play(self) -> None:
        """Start every pod that stays; the init containers have ended when this returns."""
        for pod in convert(self.manifests(), self.folder / "pods"):
            if pod.stays:
                self.start(pod)
                self.pods[pod.name.removesuffix(f"-{self.release}")] = pod
            else:
                self.once[pod.name] = pod

    def start(self, pod: Pod) -> None:
        """One pod, in the private network."""
        path = self.folder / f"{pod.name}.yaml"
        path.write_text(yaml.safe_dump_all(pod.documents))
        self.engine.podman("kube", "play", "--network", NETWORK, str(path))

    def address(self, pod: str) -> str:
        """A pod's IP address."""
        infra = self.engine.podman("pod", "inspect", self.pods[pod].name, "--format", "{{.InfraContainerID}}")
        return str(self.engine.inspect(infra)["NetworkSettings"]["Networks"][NETWORK]["IPAddress"])

    def probe(self, pod: str, kind: str) -> int:
        """The status of the pod's probes of a kind, asked as the kubelet does; the worst of them, 0 for no answer."""
        asked = [probe for probe in self.pods[pod].probes if probe.kind == kind]
        assert asked, f"{pod} has no {kind}"
        found = [get(f"http://{self.address(pod)}:{probe.port}{probe.path}")[0] for probe in asked]
        return max(found) if min(found) > 0 else 0

    def wait_ready(self, *pods: str) -> None:
        """Until the readiness probes answer 200."""
        until = time.monotonic() + READY_SEC
        for pod in pods or tuple(self.pods):
            while self.probe(pod, "readinessProbe") != 200:
                assert time.monotonic() < until, f"{pod} is not ready: {self._said(pod)}"
                time.sleep(0.2)

    def _said(self, pod: str) -> list[str]:
        logs = [self.engine.run("podman", "logs", "--tail", "5", name, check=False) for name in self.pods[pod].containers]
        return [log.stdout + log.stderr for log in logs]

    def container(self, pod: str) -> str:
        """The one container of a pod that stays."""
        [name] = self.pods[pod].containers
        return name

    def pid(self, pod: str) -> int:
        """The process on this machine that is the pod's service."""
        pid = int(self.engine.inspect(self.container(pod))["State"]["Pid"])
        assert pid > 1, f"{pod} does not run"
        return pid

    def kill(self, pod: str) -> None:
        """Like the kernel when memory runs out: podman only sees it die."""
        os.kill(self.pid(pod), signal.SIGKILL)

    def restarts(self, pod: str) -> int:
        """How often the container came back."""
        return int(self.engine.inspect(self.container(pod))["RestartCount"])

    def answers_url(self) -> str:
        return f"http://{self.address('quarry-gateway')}:8080/v1/answers"

    def ask(self, question: str) -> tuple[int, dict[str, Any]]:
        """Through the gateway; status and body, as get()."""
        return get(self.answers_url(), asked(question))


def get(url: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """A request's status and JSON; 0 when no connection was made, -1 when one was made and no answer came."""
    try:
        request = Request.begin(url, body)
    except OSError as error:
        return 0, {"error": repr(error)}
    return request.end()


def asked(question: str) -> bytes:
    """The body of a question: whatever the confidence."""
    return json.dumps({"question": question, "retrieval": "dense", "min_confidence": 0}).encode()


@dataclass(frozen=True)
class Request:
    """A request of which the server has the first half of the body, or all when there is none."""

    connection: http.client.HTTPConnection
    rest: bytes

    @classmethod
    def begin(cls, url: str, body: bytes | None = None) -> "Request":
        """Connect and send.

        Raises:
            OSError: no connection was made.
        """
        parts, body = urlsplit(url), body or b""
        connection = http.client.HTTPConnection(parts.netloc, timeout=CONNECT_SEC)
        connection.connect()
        connection.sock.settimeout(ANSWER_SEC)
        connection.putrequest("POST" if body else "GET", f"{parts.path}?{parts.query}" if parts.query else parts.path)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        half = len(body) // 2
        connection.endheaders(body[:half] or None)
        return cls(connection, body[half:])

    def end(self) -> tuple[int, dict[str, Any]]:
        """Send the rest; status and JSON, -1 when no answer came."""
        try:
            if self.rest:
                self.connection.send(self.rest)
            reply = self.connection.getresponse()
            return reply.status, dict(json.load(reply))
        except (OSError, http.client.HTTPException) as error:
            return -1, {"error": repr(error)}
        finally:
            self.connection.close()


def start_s3(host: str) -> tuple["subprocess.Popen[bytes]", str]:
    """A moto server on `host`, this machine's address on the private network, where nobody else reaches it; the process and its URL."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen()
        fd = listener.fileno()
        command = [python("pipelines/ingestion"), "-c", MOTO, str(fd)]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, pass_fds=[fd], stdout=quiet, stderr=quiet)
        return process, f"http://{host}:{listener.getsockname()[1]}"


def make_network(engine: Engine) -> str:
    """A private network on a subnet that is free; this machine's address on it, there from now on as long as a container is."""
    engine.podman("network", "create", NETWORK)
    engine.podman("run", "--detach", "--user=65532", "--network", NETWORK, f"localhost/base:{TAG}", "python3", "-c", "import signal; signal.pause()")
    found = json.loads(engine.podman("network", "inspect", NETWORK))[0]
    # A bridge takes its MAC address from its ports, unless told: when a pod goes, the others would answer this machine at one that is gone.
    name = found["network_interface"]
    engine.run("ip", "link", "set", "dev", name, "address", Path(f"/sys/class/net/{name}/address").read_text().strip())
    return str(found["subnets"][0]["gateway"])


def python(project: str) -> str:
    return str(CLONE / project / ".venv/bin/python")


def aws(endpoint: str) -> dict[str, str]:
    """What boto3 reads, for the stand-in."""
    names = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": "us-east-1"}
    return {f"AWS_{name}": value for name, value in names.items()}


def make_release(home: Path) -> str:
    """Tiny models, a few documents, and the release of both."""
    make_models(home)
    documents = home / "documents"
    documents.mkdir()
    for i, word in enumerate(WORDS):
        (documents / f"{i}.txt").write_text(f"It is {word} {WORDS[i - 5]}.")
    ingest(home, str(documents))
    return bind_parts(home, 1, 1)
