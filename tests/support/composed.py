"""All of Remit in containers, as `deploy/compose.yaml` runs it, under a project name, image tag and ports of its own."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from deploy.local.stack import KIND_VARIABLE, SERVICES, Service

ROOT: Final = Path(__file__).parents[2]
COMPOSE_FILE: Final = ROOT / "deploy/compose.yaml"
BUILT: Final = ("secrets", *SERVICES, "desk", "door")
"""What `compose.yaml` builds. The operator's tools are built for the first job."""
REVISION: Final = "0123456789abcdef0123456789abcdef01234567"
IMPATIENT: Final = {
    "invoice": {"INVOICE_REMIND_AFTER_S": "5"},
    "payment_gateway": {
        "GATEWAY_LADDER_S": "0.5,1,2,3,5,5,5,5,10,10,10",
        "GATEWAY_REQUESTS_PER_S": "1000",
        "GATEWAY_ENDPOINT_REQUESTS_PER_S": "1000",
    },
    "saga": {"SAGA_DEADLINE_S": "15,30,60"},
}
"""What takes minutes in production takes seconds here. The ladder is long, since a busy machine is slow to answer."""
COMMAND_WITHIN_S: Final = 240.0
PORTS: Final = ("RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT", "SANDBOX_PORT", "DESK_PORT", "DOOR_PORT")


def why_not() -> str | None:
    """Why no containers are built and run here, in one sentence; None if they are. It takes too long to do unasked."""
    if os.environ.get(KIND_VARIABLE) != "containers":
        return f"{KIND_VARIABLE}=containers has this test build the images and run them, in some minutes"
    if shutil.which("docker") is None or _failed("docker", "info"):
        return "no Docker engine answers here: nothing is built or run in containers"
    if _failed("docker", "compose", "version"):
        return "this Docker has no Compose 2: nothing is run by deploy/compose.yaml"
    return None


def _failed(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


def docker(*arguments: str, check: bool = True, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `docker`. Raises AssertionError with its output if it fails."""
    done = subprocess.run(
        ("docker", *arguments),
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
        env=os.environ | {"DOCKER_BUILDKIT": "1"} | variables,
    )
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {(done.stdout + done.stderr)[-4000:]}"
    return done


def logged(container: str, *options: str) -> list[str]:
    """The lines that a container has logged."""
    done = docker("logs", *options, container)
    return (done.stdout + done.stderr).splitlines()


def image_name(service: str) -> str:
    """The name of the image of a service, or of the operator's tools."""
    return f"remit-{service.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Composed:
    """One project. `folder` may hold files for its containers, which run as another user."""

    name: str
    folder: Path
    ports: Mapping[str, str] = field(default_factory=lambda: dict(zip(PORTS, _free_ports(len(PORTS)), strict=True)))

    def compose(
        self, *arguments: str, tag: str | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run `docker compose` on this project, with images of `tag`."""
        variables = {**self.ports, "REMIT_TAG": tag or self.name, "REMIT_REVISION": REVISION, "REMIT_WHO": "tests"}
        files = ("--file", str(COMPOSE_FILE), "--file", str(self._override()))
        return docker("compose", "--project-name", self.name, *files, *arguments, check=check, **variables)

    def _override(self) -> Path:
        """Build steps use the network of this machine: what it takes to reach a package index may be set up there only."""
        services: dict[str, dict[str, Any]] = {name: {"build": {"network": "host"}} for name in BUILT}
        for name, settings in IMPATIENT.items():
            services[name]["environment"] = settings
        path = self.folder / "override.yaml"
        path.write_text(json.dumps({"services": services}))
        return path

    def remit(self, *arguments: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """Run `remit`, as the operator would."""
        return self.compose("run", "--rm", "--no-deps", "-T", *options, "remit", *arguments, check=False)

    def secret(self, name: str) -> str:
        """What a file of the operator's volume holds."""
        done = self.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "remit", f"/run/remit/{name}")
        return done.stdout.strip()

    def url_from_outside(self, user: str) -> str:
        """The broker's URL as a system on this machine, outside of the containers, uses it."""
        parts = urlsplit(self.secret(f"{user}/RABBITMQ_URL"))
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@127.0.0.1:{self.ports['RABBITMQ_PORT']}").geturl()

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers."""
        return self.compose("ps", "--quiet", service).stdout.split()

    def inspected(self) -> list[dict[str, Any]]:
        """What the engine tells of every container of this project, running or not."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        told: list[dict[str, Any]] = json.loads(docker("inspect", *ids).stdout)
        return told

    def count(self, service: Service, query: str) -> int:
        """The number that a query gives in a service's database."""
        psql = ("psql", "--username=postgres", f"--dbname={service}", "--tuples-only", "--no-align", "--command", query)
        return int(self.compose("exec", "-T", "postgres", *psql).stdout)

    def write_logs(self) -> Path:
        """Write what each service has logged into files, and return their folder."""
        folder = self.folder / "logs"
        folder.mkdir(exist_ok=True)
        for service in (*SERVICES, "sandbox"):
            logged = self.compose("logs", "--no-color", "--no-log-prefix", service).stdout
            (folder / f"{service}.log").write_text(re.sub(r"^\x1b\[2K", "", logged, flags=re.MULTILINE))
        return folder


@contextlib.contextmanager
def open_composed(folder: Path) -> Iterator[Composed]:
    """A project whose images are built, and in which nothing runs yet. At the end its containers, volumes and images are removed."""
    folder.chmod(0o755)
    composed = Composed(f"remit-test-{secrets.token_hex(4)}", folder)
    try:
        composed.compose("build", "--quiet")
        yield composed
    finally:
        composed.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)
        listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        if ours := [image for image in listed if f":{composed.name}" in image]:
            docker("image", "rm", "--force", *ours, check=False)


def _free_ports(number: int) -> list[str]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]
