"""Installing packages on Debian and Ubuntu without starting a service of theirs.

Debian starts a service as soon as its package is configured. `/usr/sbin/policy-rc.d` is the documented way to forbid that
(invoke-rc.d(8), exit status 101: "action forbidden by policy"). Afterwards the policy that was there before is put back.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_SET_ASIDE: Final = Path("/usr/sbin/policy-rc.d.set-aside-by-remit")
_OURS: Final = "#!/bin/sh\n# Placed by remit while it installs rabbitmq-server: no service is started.\nexit 101\n"

_UPDATE_DEADLINE_S: Final = 180.0  # enough for a slow mirror
_INSTALL_DEADLINE_S: Final = 600.0  # about 60 MB of Erlang
_LOCK_WAIT_S: Final = 120  # another apt (unattended-upgrades) usually ends within a minute


def can_install() -> bool:
    """Whether this is a Debian or Ubuntu where we may install packages."""
    return os.geteuid() == 0 and Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def install(*packages: str) -> None:
    """Installs packages from the configured sources. No service of theirs is started.

    The caller holds the installation lock. Raises StackError with apt's last lines if it fails.
    """
    with _no_service_starts():
        _apt("update", "-qq", deadline_s=_UPDATE_DEADLINE_S)
        _apt("install", "-qq", "-y", "--no-install-recommends", *packages, deadline_s=_INSTALL_DEADLINE_S)


def install_rabbitmq(say: Callable[[str], None]) -> None:
    """Installs `rabbitmq-server` from the configured package sources. No part of it runs afterwards.

    The caller holds the installation lock. Raises StackError with apt's last lines if it fails.
    """
    had_epmd = shutil.which("epmd") is not None
    say("RabbitMQ is not installed: installing Debian's rabbitmq-server with apt (its system service stays off)")
    install("rabbitmq-server")
    # It is installed for private nodes only, so it must not start at the next boot either.
    _disable_at_boot("rabbitmq-server.service", *(() if had_epmd else ("epmd.service", "epmd.socket")))


@contextmanager
def _no_service_starts() -> Iterator[None]:
    _put_back()  # an earlier installation of ours that was killed may have left its policy behind
    if _POLICY.exists() or _POLICY.is_symlink():
        _POLICY.rename(_SET_ASIDE)
    try:
        _POLICY.write_text(_OURS)
        _POLICY.chmod(0o755)
        yield
    finally:
        _put_back()


def _put_back() -> None:
    """Restores the policy that was there before ours. A policy that is not ours is left alone."""
    if _POLICY.is_file() and _POLICY.read_text(errors="replace") == _OURS:
        _POLICY.unlink()
    if (_SET_ASIDE.exists() or _SET_ASIDE.is_symlink()) and not _POLICY.exists():
        _SET_ASIDE.rename(_POLICY)


def _apt(*arguments: str, deadline_s: float) -> None:
    command = ("apt-get", "-o", f"DPkg::Lock::Timeout={_LOCK_WAIT_S}", *arguments)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"apt-get {arguments[0]} did not finish within {deadline_s:.0f} s.") from error
    if done.returncode != 0:
        last_lines = " ".join(done.stdout.strip().splitlines()[-3:])
        raise StackError(f"apt-get {' '.join(arguments)} failed: {last_lines}")


def _disable_at_boot(*units: str) -> None:
    if not Path("/run/systemd/system").exists():
        return
    for unit in units:  # one call each: a unit that this release does not ship must not prevent the others
        subprocess.run(("systemctl", "disable", "--quiet", unit), capture_output=True, timeout=30, check=False)
