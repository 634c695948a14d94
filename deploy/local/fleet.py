"""The services of Remit as processes of this machine: for the demo, the system tests and the benchmark.

Each runs as `python -m services.X` in a process of its own, as in production. One that ends by itself is started again, as a supervisor
would do. None outlives the fleet's owner, however the owner ends.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError
from deploy.local.processes import Command, Processes
from deploy.local.scratch import Scratch

ROOT: Final = Path(__file__).parents[2]
STOP_DEADLINE_S: Final = 25.0
"""How long a service may take to stop: longer than its own drain."""
POLL_S: Final = 0.05
RESTART_POLL_S: Final = 0.2

_INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "VIRTUAL_ENV")
_INHERITED_OF: Final = ("OTEL_", "COVERAGE_")
"""Variables with these beginnings are inherited as well: they switch on traces, and the counting of branches (`make coverage`)."""


EnvironmentOf = Callable[[str], Mapping[str, str]]
"""The variables that only the named service gets: its own user and role."""


class Fleet:
    """Instances by name: `invoice`, `invoice-2`. Their logs are in `folder`, one file an instance, appended at a restart."""

    def __init__(
        self,
        processes: Processes,
        folder: Path,
        environment: Mapping[str, str],
        environment_of: EnvironmentOf,
        claim_port: Callable[[], int],
        python: str = sys.executable,
    ) -> None:
        self.folder = folder
        self.claim_port = claim_port
        """A loopback port that is this fleet's until it ends."""
        self._environment_of = environment_of
        self._python = python
        self._processes = processes
        self._environment = _inherited() | dict(environment)
        self._running: dict[str, tuple[int, Command]] = {}
        self._guard = threading.RLock()
        self._keeper_stops = threading.Event()
        self._keeper: threading.Thread | None = None
        self.restarts = 0

    def add_to_environment(self, variables: Mapping[str, str]) -> None:
        """Add variables for instances that are started from now on."""
        self._environment |= variables

    def start(self, service: str, *, instance: int = 1, program: str = "", **environment: str) -> int:
        """Start an instance; returns its process id. `environment` is added to the fleet's, and that to the service's own. `program`: a
        module and its arguments, to run instead of the service's own (for another build of it)."""
        name = service if instance == 1 else f"{service}-{instance}"
        command = Command(
            argv=(self._python, "-m", *(program or f"services.{service}").split()),
            environment={**self._environment_of(service), **self._environment, **environment},
            folder=ROOT,
            log=self.folder / f"{name}.log",
            stop_signal=signal.SIGTERM,
        )
        with self._guard:
            pid = self._processes.spawn(name, command)
            self._running[name] = (pid, command)
        return pid

    def pid(self, name: str) -> int:
        """The process id of an instance."""
        return self._running[name][0]

    @property
    def names(self) -> list[str]:
        """Instances that should be running."""
        return list(self._running)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid(name), number)

    def kill(self, name: str) -> None:
        """kill -9; returns when the process is gone. It is not started again by itself."""
        with self._guard:
            self._running.pop(name, None)
            self._processes.kill(name)

    def stop(self, name: str) -> None:
        """SIGTERM; returns when it has drained. Raises StackError if it does not end in time."""
        with self._guard:
            pid, _ = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        give_up_at = time.monotonic() + STOP_DEADLINE_S
        while self._processes.is_running(name):
            if time.monotonic() > give_up_at:
                raise StackError(f"{name} did not stop within {STOP_DEADLINE_S:.0f} s: see {self.folder / name}.log")
            time.sleep(POLL_S)

    def is_running(self, name: str) -> bool:
        """Whether its process exists."""
        return self._processes.is_running(name)

    def stop_all(self) -> None:
        """SIGTERM to all instances, then wait for each."""
        self.stop_keeping()
        for name in self.names:
            self.signal(name, signal.SIGTERM)
        for name in self.names:
            self.stop(name)

    def log(self, name: str) -> str:
        """The log of an instance so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def logs(self) -> str:
        """The logs of all instances."""
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(self.folder.glob("*.log")))

    # -- restarting --------------------------------------------------------------------------------------------------------------------

    def keep_running(self) -> None:
        """From now on, start again every instance that ends without having been told to."""
        self._keeper = threading.Thread(target=self._keep, name="fleet-keeper", daemon=True)
        self._keeper.start()

    def stop_keeping(self) -> None:
        self._keeper_stops.set()
        if self._keeper is not None:
            self._keeper.join()

    def _keep(self) -> None:
        while not self._keeper_stops.wait(RESTART_POLL_S):
            with self._guard:
                for name, (_, command) in list(self._running.items()):
                    if not self._processes.is_running(name):
                        self._running[name] = (self._processes.spawn(name, command), command)
                        self.restarts += 1


@contextmanager
def open_fleet(
    environment: Mapping[str, str],
    *,
    environment_of: EnvironmentOf = lambda _: {},
    python: str = sys.executable,
    keep: str | None = None,
) -> Iterator[Fleet]:
    """A fleet with a scratch folder for its logs. All its processes end with the block, or with its owner. `python` runs them; it may be
    that of another virtual environment. `keep`: a name under which the folder stays."""
    home = Scratch.create() if keep is None else Scratch.keep(keep)
    try:
        with Processes(home.to_remove, home.held_locks) as processes:
            fleet = Fleet(processes, home.folder, environment, environment_of, home.claim_port, python)
            try:
                yield fleet
            finally:
                fleet.stop_keeping()
    finally:
        home.release()


def _inherited() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name in _INHERITED or name.startswith(_INHERITED_OF)}
