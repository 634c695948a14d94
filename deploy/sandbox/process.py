"""The sandbox as a child process, for tests, the demo and the private stack."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.sandbox.faults import Deed

START_TIMEOUT_S = 20.0  # two busy cores and a cold import
STOP_TIMEOUT_S = 10.0  # so long after SIGTERM it is killed
POLL_S = 0.02
ADMIN_TIMEOUT_S = 5.0


class SandboxProcess:
    """A running sandbox. The address stays the same across `kill` and `restart`; so does the ledger."""

    def __init__(self, ledger: Path, *, slow_ms: float, key_age_s: float, port: int, log: Path | None) -> None:
        self.ledger = ledger
        self._options = ["--slow-ms", str(slow_ms), "--key-age-s", str(key_age_s)]
        self._port, self._admin_port = port, 0
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self._admin_port}"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise RuntimeError("the sandbox is not running")
        return self._child.pid

    def start(self) -> None:
        """Start it; returns once it listens. Raises RuntimeError if it did not come up."""
        with tempfile.TemporaryDirectory() as folder:
            port_file = Path(folder) / "ports"
            self._child = self._spawn(port_file)
            ports = self._wait_for(port_file)
        self._port, self._admin_port = (int(port) for port in ports.split())

    def kill(self) -> None:
        """SIGKILL. Answered requests are in the ledger; requests in flight may not be."""
        self._end(kill=True)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL if it does not end in time."""
        self._end(kill=False)

    def restart(self) -> None:
        self.stop()
        self.start()

    def mode(self, mode: str, *, delay_ms: float = 0) -> None:
        """Switch the whole gateway: normal, down_500, silent, refuse or slow (see README.md)."""
        self._admin("/_sandbox/mode", {"mode": mode, "delay_ms": delay_ms})

    def do(self, deed: Deed, gateway_id: str) -> None:
        """Do to a payment what others may do beside the API."""
        self._admin(f"/_sandbox/payments/{gateway_id}/{deed.value}", {})

    def show(self, payment: str) -> dict[str, Any]:
        """The ledger's rows of one payment, named by gateway id or payment id."""
        return self._admin(f"/_sandbox/ledger?payment={payment}", None)

    def _admin(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.admin_url + path, data=data)  # noqa: S310 - our own loopback address
        with urllib.request.urlopen(request, timeout=ADMIN_TIMEOUT_S) as answer:  # noqa: S310 - see above
            found: dict[str, Any] = json.load(answer)
            return found

    def _spawn(self, port_file: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "deploy.sandbox", "--ledger", str(self.ledger), *self._options]
        command += ["--port", str(self._port), "--admin-port", str(self._admin_port), "--port-file", str(port_file)]
        command += ["--until-stdin-closes"]  # so that it ends with this process, even if this one is killed
        root = Path(__file__).parents[2]
        if self._log is None:
            return subprocess.Popen(command, stdin=subprocess.PIPE, cwd=root)
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, stdout=log, cwd=root)

    def _wait_for(self, port_file: Path) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if port_file.exists():
                return port_file.read_text()
            if self._child is None or self._child.poll() is not None:
                raise RuntimeError("the sandbox gateway stopped while starting; its log says why")
            time.sleep(POLL_S)
        self.kill()
        raise RuntimeError(f"the sandbox gateway did not listen within {START_TIMEOUT_S} s")

    def _end(self, *, kill: bool) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if kill:
            child.kill()
        else:
            child.terminate()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin:
            child.stdin.close()


@contextmanager
def start_sandbox(
    ledger: Path, *, slow_ms: float = 1_500, key_age_s: float = 86_400, port: int = 0, log: Path | None = None
) -> Iterator[SandboxProcess]:
    """Run a sandbox: `with start_sandbox(folder / "ledger.sqlite") as sandbox: sandbox.url`. `log`: a file for its log, else our stderr."""
    sandbox = SandboxProcess(ledger, slow_ms=slow_ms, key_age_s=key_age_s, port=port, log=log)
    sandbox.start()
    try:
        yield sandbox
    finally:
        sandbox.stop()
