"""The supervisor of one stack's processes. It outlives its owner only as long as the clean-up takes.

It is run by file name (`python -P supervisor.py OWNER_PID SCRATCH`). It reads requests from stdin, one JSON object a line, and answers on
stdout. When the owner closes the pipe or dies in any way (`kill -9` included), the supervisor ends every process below it and removes the
scratch folder.

It must be a process of its own: RabbitMQ and PostgreSQL fork freely, and a process that makes itself a daemon leaves its process group. On
Linux the supervisor is a "child subreaper" (prctl(2)): processes that its descendants leave behind become its own children, so none
escapes. If the supervisor itself is killed, the kernel ends the processes that it started (PR_SET_PDEATHSIG). The next start removes what
those had started.

It uses only the standard library and psutil, so that it starts fast and depends on nothing that it supervises.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

_POLITE_STOP_S: Final = 5.0  # PostgreSQL's immediate shutdown takes milliseconds; then SIGKILL
_KILL_DEADLINE_S: Final = 10.0  # only a process stuck in the kernel survives SIGKILL for longer
_FINAL_COMMAND_DEADLINE_S: Final = 15.0  # for each; removing a container takes a second or two
_POLL_S: Final = 0.005
_READ_BYTES: Final = 65_536

Request = dict[str, Any]


@dataclass(slots=True)
class _Child:
    """A process that was started for the owner."""

    process: subprocess.Popen[bytes]
    stop_signal: int
    waiters: list[int] = field(default_factory=list)


class Supervisor:
    """Starts, ends and reaps processes. It has one thread, so that code between fork and exec is safe."""

    def __init__(self, owner_pid: int, scratch: Path) -> None:
        self._owner_pid = owner_pid
        self._scratch = scratch
        self._children: dict[str, _Child] = {}
        self._exited: dict[str, int] = {}
        self._final_commands: list[list[str]] = []
        self._actions: dict[str, Callable[[Request], None]] = {
            "spawn": self._spawn,
            "wait": self._wait,
            "look": self._look,
            "kill": self._kill,
            "final_command": self._add_final_command,
        }

    def run(self) -> None:
        """Serves the owner until it closes the pipe or dies, then ends everything."""
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self._serve()
        finally:
            self._end_everything()

    def _serve(self) -> None:
        unfinished = b""
        for readable in self._wake_ups():
            self._reap()
            if not readable:
                continue
            received = os.read(sys.stdin.fileno(), _READ_BYTES)
            if not received:
                return
            *lines, unfinished = (unfinished + received).split(b"\n")
            for line in lines:
                self._handle(json.loads(line))

    def _wake_ups(self) -> Iterator[bool]:
        """Yields True when the owner has written, False when a child may have ended; stops when the owner has ended."""
        signals, _write_end = _signal_pipe()
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "request")
            selector.register(signals, selectors.EVENT_READ, "signal")
            # The end of the pipe is not enough: a process that the owner forked may hold its other end open.
            owner = _watch(self._owner_pid)
            if owner is not None:
                selector.register(owner, selectors.EVENT_READ, "owner")
            while True:
                ready = {key.data for key, _ in selector.select()}
                if "owner" in ready:
                    return
                if "signal" in ready and set(os.read(signals, _READ_BYTES)) & {signal.SIGTERM, signal.SIGINT}:
                    return
                yield "request" in ready

    def _handle(self, request: Request) -> None:
        try:
            self._actions[request["do"]](request)
        except (OSError, KeyError, subprocess.SubprocessError) as error:
            self._answer(request["id"], error=f"{type(error).__name__}: {error}")

    def _answer(self, request_id: int, **content: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the owner has just died: the next wake-up tells
            sys.stdout.write(json.dumps({"id": request_id, **content}) + "\n")
            sys.stdout.flush()

    def _spawn(self, request: Request) -> None:
        """Starts argv under a name and appends its output to a file; as another user if asked to (then we are root)."""
        stop_signal = int(request["stop_signal"])
        user = request["user"]
        identity: dict[str, Any] = {} if user is None else {"user": user, "group": request["group"], "extra_groups": []}
        with Path(request["log"]).open("ab") as log:
            process = subprocess.Popen(
                request["argv"],
                env=request["env"],
                cwd=request["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: _die_with_parent(stop_signal),  # noqa: PLW1509 - one thread only; and after setuid,
                **identity,  # a change of user would clear that setting
            )
        self._exited.pop(request["name"], None)
        self._children[request["name"]] = _Child(process, stop_signal)
        self._answer(request["id"], pid=process.pid)

    def _wait(self, request: Request) -> None:
        """Answers with the exit status once the named process has ended; a negative one is the signal that ended it."""
        name = request["name"]
        if name in self._exited:
            self._answer(request["id"], status=self._exited[name])
        else:
            self._children[name].waiters.append(request["id"])

    def _look(self, request: Request) -> None:
        """Answers whether the named process is running."""
        self._answer(request["id"], running=request["name"] in self._children)

    def _kill(self, request: Request) -> None:
        """kill -9 of the named process and all that it started; answers when they are gone."""
        child = self._children.get(request["name"])
        if child is not None:
            self._end([child], signal.SIGKILL, grace_s=0.0)
        self._answer(request["id"])

    def _add_final_command(self, request: Request) -> None:
        """Remembers a command to run at the very end."""
        self._final_commands.append(request["argv"])
        self._answer(request["id"])

    def _end_everything(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the clean-up itself must not be interrupted
        self._end(list(self._children.values()), None, grace_s=_POLITE_STOP_S)
        for argv in self._final_commands:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(argv, capture_output=True, timeout=_FINAL_COMMAND_DEADLINE_S, check=False)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self, children: list[_Child], number: int | None, grace_s: float) -> None:
        """Signals `children` (with each one's own stop signal if `number` is None), then kills those that are left."""
        family = [process for child in children for process in _descendants(child.process.pid)]
        for child in children:
            _signal(child.process.pid, child.stop_signal if number is None else number)
        polite_until = time.monotonic() + grace_s
        while time.monotonic() < polite_until and any(self._is_child(child.process.pid) for child in children):
            self._reap()
            time.sleep(_POLL_S)
        give_up_at = time.monotonic() + _KILL_DEADLINE_S
        while time.monotonic() < give_up_at:
            remaining = [*filter(_is_alive, family), *self._strays(children)]
            if not remaining:
                return
            for process in remaining:
                _signal(process.pid, signal.SIGKILL)
            time.sleep(_POLL_S)
            self._reap()

    def _is_child(self, pid: int) -> bool:
        return any(child.process.pid == pid for child in self._children.values())

    def _strays(self, ending: list[_Child]) -> list[psutil.Process]:
        """Children that are ending, and orphans: the kernel makes them our children, and the owner did not ask for them."""
        wanted = {child.process.pid for child in self._children.values() if child not in ending}
        return [process for process in psutil.Process().children() if process.pid not in wanted and _is_alive(process)]

    def _reap(self) -> None:
        """Collects every child that has ended, orphans too, and answers the owner's requests that wait for it."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._note_exit(pid, os.waitstatus_to_exitcode(wait_status))

    def _note_exit(self, pid: int, status: int) -> None:
        for name, child in list(self._children.items()):
            if child.process.pid == pid:
                child.process.returncode = status  # set here, because subprocess did not reap it
                del self._children[name]
                self._exited[name] = status
                for request_id in child.waiters:
                    self._answer(request_id, status=status)


def _signal_pipe() -> tuple[int, int]:
    """A pipe that receives one byte, the signal's number, for each signal that we handle."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end, write_end


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when process `pid` ends; None if the system has none."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        sys.exit(0)  # the owner ended before we started, and nothing runs yet


def _die_with_parent(stop_signal: int) -> None:
    """Runs between fork and exec: the kernel sends `stop_signal` when the supervisor dies."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    Supervisor(int(sys.argv[1]), Path(sys.argv[2])).run()
