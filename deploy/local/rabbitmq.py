"""A private RabbitMQ of one node or a cluster, from an installed `rabbitmq-server`, separate from any other on the machine.

It has its own data, ports, cookie, plugins, configuration and port mapper (epmd), and listens on 127.0.0.1 only. Works with RabbitMQ 3.10
(Debian 12) and 4.x. Environment variables: rabbitmq.com/docs/configure.
"""

import os
import secrets
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from deploy.local import debian
from deploy.local.errors import StackError
from deploy.local.processes import Command, Processes
from deploy.local.scratch import Scratch, exclusive_lock
from deploy.permissions.passwords import kept_passwords
from shared.private_files import write_private

_NAME: Final = "rabbitmq"
_PORT_MAPPER: Final = "epmd"
_USER: Final = "administrator"
"""The user of the set-up. With it the broker makes no `guest`."""
_PROGRAMS: Final = Path("/usr/lib/rabbitmq/bin")
"""Debian's programs here run as the user who calls them; those in /usr/sbin change to the package's user."""

_READY_DEADLINE_S: Final = 120.0  # it takes seven seconds on an idle machine
_CTL_DEADLINE_S: Final = 60.0  # it takes a second or two
QUEUE_REGISTERED_S: Final = 2.0
"""How old a quorum queue must be to survive a kill. RabbitMQ's Raft library saves its register of queues when it has been idle for half a
second (github.com/rabbitmq/ra/pull/443). A kill before that loses the new queue's confirmed messages, and leaves the queue without a leader
for ever (reproduced with 3.10.8 and 4.0.5)."""
_POLL_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 2.0
_INSTALL_LOCK_S: Final = 900.0  # another run may be installing: an update and a download

_PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
_METHOD_FRAME_ON_CHANNEL_0: Final = b"\x01\x00\x00"
_CONNECTION_START: Final = b"\x00\x0a\x00\x0a"
_LOOPBACK: Final = "-kernel inet_dist_use_interface {127,0,0,1}"
_NO_BUSY_WAITING: Final = "+sbwt none +sbwtdcpu none +sbwtdio none"
"""Threads of Erlang that find nothing to do leave the CPU to others on this machine (rabbitmq.com/docs/runtime)."""


@dataclass(frozen=True, slots=True)
class PrivateRabbit:
    """One node of ours; `start`, `kill` and `start` again keep ports and data."""

    url: str
    name: str
    """Its Erlang name, which the broker's own messages use."""
    control_program: Path
    _processes: Processes
    _process: str
    _node: Command
    _port: int

    @classmethod
    def open(cls, scratch: Scratch, processes: Processes) -> Self:
        """Starts a broker of one node; returns when it speaks AMQP."""
        (node,) = cls.open_cluster(scratch, processes, nodes=1)
        return node

    @classmethod
    def open_cluster(cls, scratch: Scratch, processes: Processes, *, nodes: int) -> tuple[Self, ...]:
        """Starts a broker of `nodes` nodes with one port mapper, cookie and user; returns when all speak AMQP."""
        home = scratch.folder / _NAME
        home.mkdir(mode=0o700, exist_ok=True)
        mapper_port = scratch.claim_port()
        password = kept_passwords(home / "administrator", [_USER])[
            _USER
        ]  # the broker takes it once, with its first data
        members = tuple(
            cls._prepared(scratch, processes, number, mapper_port, password) for number in range(1, nodes + 1)
        )
        mapper = (shutil.which("epmd") or "epmd", "-port", str(mapper_port), "-address", "127.0.0.1")
        processes.start(
            _PORT_MAPPER,
            Command(mapper, {"PATH": os.defpath}, home, home / "epmd.log"),
            lambda: _listens(mapper_port),
            deadline_s=_READY_DEADLINE_S,
        )
        for member in members:
            member.start()
        for member in members[1:]:
            member.join(members[0])
        return members

    @classmethod
    def _prepared(cls, scratch: Scratch, processes: Processes, number: int, mapper_port: int, password: str) -> Self:
        """Writes the configuration of node `number`, and does not start it."""
        suffix = "" if number == 1 else f"-{number}"
        programs = _programs()
        home = scratch.folder / f"{_NAME}{suffix}"
        home.mkdir(mode=0o700, exist_ok=True)
        port, distribution_port = scratch.claim_port(), scratch.claim_port()
        configuration = (
            f"listeners.tcp.local = 127.0.0.1:{port}\n"
            f"default_user = {_USER}\ndefault_pass = {password}\n"
            "log.console = true\nlog.console.level = info\nlog.file = false\n"
        )
        (home / "rabbitmq.conf").write_text(configuration)
        (home / "enabled_plugins").write_text("[].\n")
        name = f"{scratch.name}{suffix}@localhost"
        environment = _environment(home, scratch.folder / _NAME, name, distribution_port, mapper_port)
        return cls(
            f"amqp://{_USER}:{password}@127.0.0.1:{port}/%2F",
            name,
            _write_control_program(home, programs, environment),
            processes,
            f"{_NAME}{suffix}",
            Command((programs / "rabbitmq-server",), environment, home, home / "log"),
            port,
        )

    def join(self, other: Self) -> None:
        """Become a node of the other's broker; what this node held is lost."""
        for step in (("stop_app",), ("join_cluster", other.name), ("start_app",)):
            self.ctl(*step)

    def start(self) -> None:
        """Starts the node and returns when it speaks AMQP; raises StackError otherwise."""
        self._processes.start(
            self._process, self._node, lambda: speaks_amqp("127.0.0.1", self._port), deadline_s=_READY_DEADLINE_S
        )

    def kill(self) -> None:
        """kill -9 of the node and all that it started; returns when they are gone.

        First waits until a kill cannot lose the newest quorum queue: see QUEUE_REGISTERED_S.
        """
        while time.time() - self._newest_queue_s() < QUEUE_REGISTERED_S:
            time.sleep(_POLL_S)
        self._processes.kill(self._process)

    def _newest_queue_s(self) -> float:
        """When the newest quorum queue was created, in seconds since the epoch; 0 if there is none."""
        queues = self._node.folder.glob("data/*/quorum/*/*/config")
        return max((queue.stat().st_mtime for queue in queues), default=0.0)

    def import_definitions(self, definitions: str) -> None:
        """Makes virtual hosts, users and permissions of this JSON; raises StackError if that fails."""
        path = self._node.folder / f"definitions-{secrets.token_hex(4)}.json"
        write_private(path, definitions)
        self.ctl("import_definitions", str(path))
        path.unlink()

    def enable(self, plugin: str) -> None:
        """Turns on a plugin of the running broker. It is on again after each start."""
        file = self._node.folder / "enabled_plugins"
        file.write_text(f"[{plugin}].\n")
        self.ctl("eval", f'rabbit_plugins:ensure("{file}").')

    def ctl(self, *arguments: str) -> str:
        """Runs rabbitmqctl against this node and returns its output; raises StackError if it fails."""
        command = Command((self.control_program, *arguments), {"PATH": os.defpath}, self._node.folder, self._node.log)
        return self._processes.run("rabbitmqctl", command, deadline_s=_CTL_DEADLINE_S)


@contextmanager
def open_cluster(*, nodes: int, say: Callable[[str], None]) -> Iterator[tuple[PrivateRabbit, ...]]:
    """A broker of `nodes` nodes and nothing else. All of it ends with the block, or with its owner."""
    ensure_installed(say)
    home = Scratch.create()
    try:
        with Processes(home.folder, home.held_locks) as processes:
            yield PrivateRabbit.open_cluster(home, processes, nodes=nodes)
    finally:
        home.release()


def ensure_installed(say: Callable[[str], None]) -> None:
    """Installs RabbitMQ if we may; otherwise raises StackError with one sentence that tells what to do."""
    if _is_installed():
        return
    if not debian.can_install():
        raise StackError(
            "RabbitMQ is not installed: install the package rabbitmq-server (as root on Debian and Ubuntu it is done "
            "for you), or start Docker, or set RABBITMQ_URL and the four *_DATABASE_URL."
        )
    with exclusive_lock("install", deadline_s=_INSTALL_LOCK_S):
        if not _is_installed():  # the previous holder of the lock may have installed it
            debian.install_rabbitmq(say)


def speaks_amqp(host: str, port: int) -> bool:
    """Whether a broker at this address answers the protocol header with Connection.Start (AMQP 0-9-1, sections 2.2.4 and 4.2.3).

    RabbitMQ opens its listeners as the last step of its start.
    """
    try:
        with socket.create_connection((host, port), _PROBE_TIMEOUT_S) as connection:
            connection.sendall(_PROTOCOL_HEADER)
            answer = connection.recv(11, socket.MSG_WAITALL)
    except OSError:
        return False
    return answer[:3] == _METHOD_FRAME_ON_CHANNEL_0 and answer[7:11] == _CONNECTION_START


def _is_installed() -> bool:
    return (_PROGRAMS / "rabbitmq-server").exists() or shutil.which("rabbitmq-server") is not None


def _programs() -> Path:
    if (_PROGRAMS / "rabbitmq-server").exists():
        return _PROGRAMS
    found = shutil.which("rabbitmq-server")
    if found is None:
        raise StackError("RabbitMQ is not installed.")
    return Path(found).resolve().parent


def _environment(
    home: Path, cookie_folder: Path, name: str, distribution_port: int, mapper_port: int
) -> dict[str, str]:
    return {
        "PATH": os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/bin", "/bin")),
        "LANG": "C.UTF-8",
        "HOME": str(cookie_folder),  # Erlang keeps the cookie here; the nodes of a cluster share it
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP": str(home / "erl_crash.dump"),
        "RABBITMQ_CONF_ENV_FILE": str(
            home / "no-environment-file"
        ),  # otherwise /etc/rabbitmq/rabbitmq-env.conf is read
        "RABBITMQ_NODENAME": name,
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_LOOPBACK} -start_epmd false {_NO_BUSY_WAITING}",
        "RABBITMQ_CTL_ERL_ARGS": f"{_LOOPBACK} -start_epmd false {_NO_BUSY_WAITING}",
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "logs"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(home / "pid"),
        # As for a service manager, the script then replaces itself by the node, so that no shell between them can outlive it.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def _write_control_program(home: Path, programs: Path, environment: dict[str, str]) -> Path:
    """Writes a `rabbitmqctl` for this node only. People can call it too, without any of the node's variables."""
    settings = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
    program = home / "rabbitmqctl"
    program.write_text(f'#!/bin/sh\nexec env -i {settings} {shlex.quote(str(programs / "rabbitmqctl"))} "$@"\n')
    program.chmod(0o700)
    return program


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), _PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True
