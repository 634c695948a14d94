"""Where a stack keeps its files, and which ports it uses, so that any number of stacks can run side by side.

Every claim is a lock on a file (flock(2)), held by the stack's owner and its supervisor. The kernel releases it when the last of them
ends, however it ends, so no claim ever needs cleaning up.
"""

import contextlib
import fcntl
import os
import random
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import psutil

from deploy.local.errors import StackError

_LOCK_POLL_S: Final = 0.05
_KILLED_WITHIN_S: Final = 5.0
_OWNER_FILE: Final = "owner.lock"
_KEPT: Final = "kept-"
"""How a folder begins that stays. The sweep removes others only."""
_PORTS: Final = range(18_000, 32_000)
"""Below the range from which Linux takes the ports of outgoing connections (32768 and up). Otherwise some connection could get the port of
a killed server before the server is started again."""
_PORT_TRIES: Final = 200


@dataclass(slots=True)
class Scratch:
    """The folder of one stack, and the ports that it has claimed."""

    name: str
    folder: Path
    _base: Path
    _locks: list[int] = field(default_factory=list)

    @property
    def held_locks(self) -> list[int]:
        """Open descriptors of every claim; the supervisor gets them too."""
        return self._locks

    @property
    def to_remove(self) -> Path:
        """What its supervisor removes at the end: all of it, or nothing of one that is kept."""
        return self.folder / "nothing" if self.name.startswith(_KEPT) else self.folder

    @classmethod
    def keep(cls, what: str) -> Self:
        """The folder of this name, which stays when its owner ends; new, or as its last owner left it.

        Processes of an owner that was killed are ended first. Raises StackError if another owner is alive.
        """
        base, name = _base_folder(), f"{_KEPT}{what}"
        folder = base / name
        with exclusive_lock("scratch", deadline_s=60.0):
            folder.mkdir(mode=0o711, exist_ok=True)
            lock = _try_to_take(folder / _OWNER_FILE)
            if lock is None:
                raise StackError(f"{folder} is used by another run: stop that one first.")
            _kill_users_of(folder)
            return cls(name, folder, base, [lock])

    @classmethod
    def create(cls, parent: Path | None = None) -> Self:
        """Makes a new folder (below `parent`, default: TMPDIR) after removing what dead owners left."""
        base = _base_folder()
        with exclusive_lock("scratch", deadline_s=60.0):
            _sweep(base)
            name = f"remit-{secrets.token_hex(4)}"
            folder = (base if parent is None else parent.resolve()) / name
            if parent is not None:  # if we are killed, the next start finds the folder by this link
                (base / name).symlink_to(folder)
            folder.mkdir(mode=0o711, parents=True)  # PostgreSQL's user must be able to pass through
            return cls(name, folder, base, [_take(folder / _OWNER_FILE)])

    def claim_port(self) -> int:
        """A loopback port that nobody listens on and no other stack has claimed. It is ours until the stack ends."""
        ports = self._base / "ports"
        ports.mkdir(exist_ok=True)
        for port in random.sample(_PORTS, _PORT_TRIES):
            lock = _try_to_take(ports / str(port))
            if lock is None:
                continue
            if _is_free(port):
                self._locks.append(lock)
                return port
            os.close(lock)
        raise StackError("No free loopback port was found for the local stack.")

    def release(self) -> None:
        """Releases every claim."""
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()
        link = self._base / self.name
        if link.is_symlink():
            link.unlink()


@contextmanager
def exclusive_lock(name: str, *, deadline_s: float) -> Iterator[None]:
    """Holds a lock that one process of this user can hold at a time; raises StackError if it is not free within the deadline."""
    path = _base_folder() / f"{name}.lock"
    give_up_at = time.monotonic() + deadline_s
    while (lock := _try_to_take(path)) is None:
        if time.monotonic() > give_up_at:
            raise StackError(f"Another run has been holding {path} for more than {deadline_s:.0f} s.")
        time.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        os.close(lock)


def shared_folder(name: str, fill: Callable[[Path], None]) -> Path:
    """A folder that all stacks of this user share. It is kept; the first stack that needs it fills it.

    It appears under its name only when it is complete.
    """
    folder = _base_folder() / name
    with exclusive_lock(name, deadline_s=60.0):
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(mode=0o755)
            fill(unfinished)
            unfinished.rename(folder)
    return folder


def _base_folder() -> Path:
    """The folder of this user's stacks. Raises StackError if another user made it first, because it holds passwords and programs."""
    base = Path(tempfile.gettempdir()) / f"remit-local-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o711)
    if base.is_symlink() or base.stat().st_uid != os.getuid():
        raise StackError(f"{base} belongs to somebody else: set TMPDIR to a folder of your own.")
    return base


def _take(path: Path) -> int:
    lock = _try_to_take(path)
    if lock is None:
        raise StackError(f"{path} is locked by somebody else.")
    return lock


def _try_to_take(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the servers set it too
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _sweep(base: Path) -> None:
    """Removes the folders and ends the processes of stacks whose owner and supervisor were both killed."""
    for entry in base.glob("remit-*"):
        folder = entry.resolve()
        if folder.exists():
            lock = _try_to_take(folder / _OWNER_FILE)
            if lock is None:
                continue  # its owner or supervisor is alive
            _kill_users_of(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
        if entry.is_symlink():
            entry.unlink()


def _kill_users_of(folder: Path) -> None:
    """Kills every process of a stack: each names the stack's scratch folder in its arguments or its environment.

    Waits until they have ended, since one that is still dying may write another file into a folder that is being removed.
    """
    needle, killed = str(folder), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(needle in word for word in _words(process)):
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=_KILLED_WITHIN_S)


def _words(process: psutil.Process) -> list[str]:
    words = [*process.cmdline()]
    with contextlib.suppress(psutil.Error):
        words += process.environ().values()
    return words
