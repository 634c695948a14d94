"""The owner's side of the supervisor: starts, waits for and kills processes that cannot outlive their owner."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from signal import SIGKILL, Signals
from types import TracebackType
from typing import Any, Final, Self

from deploy.local import supervisor
from deploy.local.errors import StackError

_REQUEST_DEADLINE_S: Final = 15.0  # longer than the supervisor's own deadline for killing
_READY_POLL_S: Final = 0.05
_LOG_TAIL_CHARS: Final = 1_000  # characters of a log that fit into an error message
_STOP_DEADLINE_S: Final = 50.0  # longer than the supervisor's polite stop, killing and final commands together


@dataclass(frozen=True, slots=True)
class Identity:
    """Another user to run a process as; only root can."""

    user_id: int
    group_id: int


@dataclass(frozen=True, slots=True)
class Command:
    """What to run; the environment is complete, nothing is inherited."""

    argv: Sequence[str | Path]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    identity: Identity | None = None
    stop_signal: Signals = SIGKILL
    """The signal that ends it in good order. The kernel sends it too, if the supervisor is killed."""


class Processes:
    """Named processes under one supervisor, which also removes `scratch` at the end. Threads may share it."""

    def __init__(self, scratch: Path, held_locks: Sequence[int]) -> None:
        self._numbers = count(1)
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._guard = threading.Lock()
        self._supervisor = subprocess.Popen(
            (sys.executable, "-P", supervisor.__file__, str(os.getpid()), str(scratch)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            pass_fds=held_locks,  # so that the locks stay held until the last process has ended
            start_new_session=True,  # so that Ctrl-C reaches only the owner, which may still need the stack
            cwd="/",
        )
        self._reader = threading.Thread(target=self._read_answers, name="stack-supervisor", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def spawn(self, name: str, command: Command) -> int:
        """Starts a process and returns its id; raises StackError if it cannot be started."""
        identity = command.identity
        answer = self._ask(
            "spawn",
            name=name,
            argv=[str(argument) for argument in command.argv],
            env=dict(command.environment),
            cwd=str(command.folder),
            log=str(command.log),
            user=None if identity is None else identity.user_id,
            group=None if identity is None else identity.group_id,
            stop_signal=int(command.stop_signal),
        )
        return int(answer["pid"])

    def start(self, name: str, command: Command, is_ready: Callable[[], bool], *, deadline_s: float) -> None:
        """Starts a server and returns when it is ready; if it is late, raises StackError with the end of its log."""
        self.spawn(name, command)
        give_up_at = time.monotonic() + deadline_s
        while not is_ready():
            ended = not self.is_running(name)
            if ended or time.monotonic() > give_up_at:
                happened = "ended at once" if ended else f"was not ready within {deadline_s:.0f} s"
                log_tail = command.log.read_text(encoding="utf-8", errors="replace").strip()[-_LOG_TAIL_CHARS:]
                raise StackError(f"{name} {happened}: {log_tail}")
            time.sleep(_READY_POLL_S)

    def run(self, name: str, command: Command, *, deadline_s: float) -> str:
        """Runs a process to its end and returns its output; raises StackError if it fails or takes longer."""
        run_name = f"{name}-{next(self._numbers)}"
        log = command.log.with_name(f"{run_name}.log")
        self.spawn(run_name, Command(command.argv, command.environment, command.folder, log, command.identity))
        try:
            status = int(self._ask("wait", deadline_s=deadline_s, name=run_name)["status"])
        except StackError:
            self.kill(run_name)
            raise
        output = log.read_text(encoding="utf-8", errors="replace")
        if status != 0:
            raise StackError(f"{name} failed with status {status}: {output.strip()[-_LOG_TAIL_CHARS:]}")
        log.unlink()
        return output

    def is_running(self, name: str) -> bool:
        """Whether a process that was spawned under this name has not ended yet."""
        return bool(self._ask("look", name=name)["running"])

    def kill(self, name: str) -> None:
        """kill -9 of a process and all that it started; returns when they are gone."""
        self._ask("kill", name=name)

    def at_the_end(self, argv: Sequence[str | Path]) -> None:
        """Registers a command that the supervisor runs last, even if the owner was killed."""
        self._ask("final_command", argv=[str(argument) for argument in argv])

    def close(self) -> None:
        """Ends every process and removes the scratch folder; returns when that is done."""
        stdin = self._supervisor.stdin
        if stdin is not None:
            with contextlib.suppress(OSError), self._guard:
                stdin.close()
        try:
            self._supervisor.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        self._reader.join()

    def _ask(self, action: str, *, deadline_s: float = _REQUEST_DEADLINE_S, **content: object) -> dict[str, Any]:
        number = next(self._numbers)
        answer: Future[dict[str, Any]] = Future()
        self._pending[number] = answer
        line = json.dumps({"id": number, "do": action, **content}) + "\n"
        stdin = self._supervisor.stdin
        assert stdin is not None  # noqa: S101 - Popen was told to make a pipe
        try:
            with self._guard:
                stdin.write(line)
            received = answer.result(deadline_s)
        except NoAnswerError as error:  # it is an OSError, so it comes first
            raise StackError(f"{content.get('name', action)} did not finish within {deadline_s:.0f} s.") from error
        except (OSError, ValueError) as error:
            raise StackError("The local stack has been stopped.") from error
        finally:
            self._pending.pop(number, None)
        if "error" in received:
            raise StackError(f"{content.get('name', action)}: {received['error']}")
        return received

    def _read_answers(self) -> None:
        stdout = self._supervisor.stdout
        assert stdout is not None  # noqa: S101 - Popen was told to make a pipe
        with stdout:
            for line in stdout:
                received = json.loads(line)
                waiting = self._pending.get(received["id"])
                if waiting is not None:
                    waiting.set_result(received)
        for waiting in list(self._pending.values()):
            waiting.set_exception(BrokenPipeError("the supervisor has ended"))
