"""A real PgBouncer in front of a database."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.waiting import DEADLINE_S, POLL_S


@contextmanager
def pgbouncer(url: str, mode: str) -> Iterator[str]:
    """Run it in this pool mode, otherwise as it is by default, in front of the database at `url`. Yields the URL that leads through it."""
    parts = urlsplit(url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="remit-pgbouncer-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root it becomes `nobody`
        (folder / "users").write_text(f'"{parts.username}" "{unquote(parts.password or "")}"\n')
        (folder / "conf").write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {folder / 'users'}\npool_mode = {mode}\n"
        )
        as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = [program("pgbouncer", "pgbouncer"), "-q", *as_nobody, str(folder / "conf")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for(port)
                yield parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
            finally:
                process.terminate()
                process.wait(DEADLINE_S)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    raise AssertionError(f"PgBouncer did not listen within {DEADLINE_S:g} s")
