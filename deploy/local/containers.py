"""RabbitMQ and PostgreSQL in containers of this machine's Docker engine, through testcontainers.

Clean-up does not need testcontainers' own reaper (Ryuk) and its image. Our supervisor removes the containers, even when the owner was
killed. Containers that outlived even the supervisor are removed at the next start.
"""

import contextlib
import io
import secrets
import socket
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import docker  # type: ignore[import-untyped]  # it ships no types
from docker.errors import (  # type: ignore[import-untyped]
    DockerException,
    ImageNotFound,
    NotFound,
)
from requests.exceptions import RequestException
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient, get_docker_host

from deploy.local import remove_containers
from deploy.local.errors import StackError
from deploy.local.postgres import CONNECTIONS_MAX, accepts_sessions
from deploy.local.processes import Processes
from deploy.local.rabbitmq import QUEUE_REGISTERED_S, speaks_amqp
from deploy.local.scratch import Scratch

RABBITMQ_IMAGE: Final = "rabbitmq:4-management"
POSTGRES_IMAGE: Final = "postgres:17"

_QUEUES: Final = "/var/lib/rabbitmq"
_LABEL: Final = "remit.scratch"
"""Every container of ours has this label; its value is the scratch folder of its owner."""
_DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
_ANSWER_TIMEOUT_S: Final = 3.0  # an engine on this machine answers in milliseconds
_PULL_DEADLINE_S: Final = 120.0  # both images, about 400 MB; without a registry it fails at once
_READY_DEADLINE_S: Final = 120.0
_POLL_S: Final = 0.1
_LOG_TAIL_CHARS: Final = 1_000


@dataclass(frozen=True, slots=True)
class ContainedServer:
    """One server in a container; `start`, `kill` and `start` again keep port and data."""

    url: str
    _container: DockerContainer
    _is_ready: Callable[[], bool]
    _may_be_killed: Callable[[DockerContainer], bool]

    def start(self) -> None:
        """Starts the container and returns when the server in it serves; raises StackError otherwise."""
        self._container.get_wrapped_container().start()
        self.await_ready()

    def kill(self) -> None:
        """kill -9 of everything in the container; returns when it is gone. First waits until a kill cannot lose a queue."""
        while not self._may_be_killed(self._container):
            time.sleep(_POLL_S)
        container = self._container.get_wrapped_container()
        container.kill("SIGKILL")
        container.wait()

    def ctl(self, *arguments: str) -> str:
        """Runs rabbitmqctl in the container and returns its output; raises StackError if it fails."""
        done = self._container.exec(["rabbitmqctl", *arguments])
        output = done.output.decode(errors="replace")
        if done.exit_code != 0:
            raise StackError(f"rabbitmqctl failed with status {done.exit_code}: {output.strip()[-_LOG_TAIL_CHARS:]}")
        return output

    def import_definitions(self, definitions: str) -> None:
        """Makes virtual hosts, users and permissions of this JSON; raises StackError if that fails."""
        name = f"definitions-{secrets.token_hex(4)}.json"
        with io.BytesIO() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                entry = tarfile.TarInfo(name)
                entry.mode, entry.size = (
                    0o644,
                    len(definitions),
                )  # rabbitmqctl reads it as the broker's user; it holds hashes only
                tar.addfile(entry, io.BytesIO(definitions.encode("ascii")))
            self._container.get_wrapped_container().put_archive("/tmp", archive.getvalue())  # noqa: S108 - in the container
        self.ctl("import_definitions", f"/tmp/{name}")  # noqa: S108

    def await_ready(self) -> None:
        """Returns when the server in the running container serves; otherwise raises StackError with the end of its log."""
        container = self._container.get_wrapped_container()
        give_up_at = time.monotonic() + _READY_DEADLINE_S
        while not self._is_ready():
            container.reload()
            if container.status == "exited" or time.monotonic() > give_up_at:
                log_tail = container.logs(tail=20).decode(errors="replace")[-_LOG_TAIL_CHARS:]
                raise StackError(f"{container.name} did not become ready: {log_tail}")
            time.sleep(_POLL_S)


def are_available() -> bool:
    """Whether an engine on this machine answers, and has our images or gets them within `_PULL_DEADLINE_S`."""
    if not _engine_answers():
        return False
    try:
        with _engine() as engine:
            _get_images(engine)
    except (DockerException, RequestException, StackError):
        return False
    return True


@contextlib.contextmanager
def errors_explained() -> Iterator[None]:
    """Turns an error of the engine into a StackError of one sentence."""
    try:
        yield
    except (DockerException, RequestException) as error:
        raise StackError(f"Docker could not run the containers (REMIT_STACK=private does without): {error}") from error


def rabbitmq(scratch: Scratch, processes: Processes) -> ContainedServer:
    """Starts a broker; returns when it serves."""
    user, password, port = "administrator", secrets.token_hex(16), scratch.claim_port()
    container = DockerContainer(RABBITMQ_IMAGE)
    container.with_envs(RABBITMQ_DEFAULT_USER=user, RABBITMQ_DEFAULT_PASS=password)
    container.with_kwargs(
        labels={_LABEL: str(scratch.folder)}, hostname="rabbitmq"
    )  # names the node and its data folder
    url = f"amqp://{user}:{password}@127.0.0.1:{port}/%2F"
    return _start(container, f"{scratch.name}-rabbitmq", 5672, url, speaks_amqp, _queues_are_registered, processes)


def postgresql(scratch: Scratch, processes: Processes) -> ContainedServer:
    """Starts a database server; returns when it serves."""
    user, password, port = "postgres", secrets.token_hex(16), scratch.claim_port()
    container = PostgresContainer(POSTGRES_IMAGE, username=user, password=password, dbname="postgres", driver=None)
    container.with_command(["postgres", "-c", f"max_connections={CONNECTIONS_MAX}"])
    container.with_kwargs(labels={_LABEL: str(scratch.folder)})
    url = f"postgresql://{user}:{password}@127.0.0.1:{port}/postgres"
    return _start(
        container, f"{scratch.name}-postgresql", 5432, url, accepts_sessions, lambda _container: True, processes
    )


def of(scratch: Path) -> list[str]:
    """The names of the containers, running or not, that belong to one stack."""
    with _engine() as engine:
        found = engine.containers.list(all=True, filters={"label": f"{_LABEL}={scratch}"})
        return [str(container.name) for container in found]


def remove_orphans() -> None:
    """Removes containers of ours whose owner has ended: its scratch folder no longer exists."""
    with _engine() as engine, contextlib.suppress(NotFound):
        for container in engine.containers.list(all=True, filters={"label": _LABEL}):
            if not Path(container.labels[_LABEL]).exists():
                container.remove(force=True, v=True)


def _start(
    container: DockerContainer,
    name: str,
    inner_port: int,
    url: str,
    serves: Callable[[str, int], bool],
    may_be_killed: Callable[[DockerContainer], bool],
    processes: Processes,
) -> ContainedServer:
    testcontainers_config.ryuk_disabled = True
    port = urlsplit(url).port
    assert port is not None  # noqa: S101 - the caller has just put it there
    # A fixed port, so that it stays the same after a restart. Loopback only, which the declared type does not foresee.
    container.ports[f"{inner_port}/tcp"] = ("127.0.0.1", port)  # type: ignore[assignment]
    container.with_name(name)
    processes.at_the_end((sys.executable, "-P", remove_containers.__file__, name))
    server = ContainedServer(url, container, lambda: serves("127.0.0.1", port), may_be_killed)
    DockerContainer.start(
        container
    )  # not the subclass's start: it waits by running a program in the container each second
    server.await_ready()
    return server


def _queues_are_registered(container: DockerContainer) -> bool:
    """Whether every quorum queue is old enough to survive a kill (see QUEUE_REGISTERED_S)."""
    recent = f"{QUEUE_REGISTERED_S:.0f} seconds ago"
    found = container.exec(["find", _QUEUES, "-path", "*/quorum/*/config", "-newermt", recent])
    return not found.output.strip()


def _engine_answers() -> bool:
    """Whether something listens on the engine's socket. This is asked first, because the SDK leaks a socket if nothing listens.

    Only an engine on this machine counts: another machine's ports would not be on loopback.
    """
    address = urlsplit(get_docker_host() or _DEFAULT_HOST)
    if address.scheme != "unix":
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_TIMEOUT_S)
        try:
            probe.connect(address.path)
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _engine() -> Iterator[docker.DockerClient]:
    client = DockerClient(timeout=30).client
    try:
        yield client
    finally:
        client.close()


def _get_images(engine: docker.DockerClient) -> None:
    give_up_at = time.monotonic() + _PULL_DEADLINE_S
    for image in (RABBITMQ_IMAGE, POSTGRES_IMAGE):
        try:
            engine.images.get(image)
        except ImageNotFound:
            for _progress in engine.api.pull(image, stream=True):
                if time.monotonic() > give_up_at:
                    raise StackError(f"{image} could not be pulled within {_PULL_DEADLINE_S:.0f} s.") from None
            engine.images.get(
                image
            )  # a pull reports its failure only among its progress messages, so check for the image
