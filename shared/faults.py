"""Named crash points (FAULTS.md): places where a test makes this process die, stop, stumble or be cancelled.

`shared.fault_points` declares them all. Off unless `REMIT_FAULT=name:nth:action` is set; then loudly logged. Off, a point costs one
comparison.
"""

import asyncio
import os
import signal
from dataclasses import dataclass

import structlog

from shared.fault_points import NAMES
from shared.settings import ConfigurationError

log = structlog.get_logger(__name__)

ACTIONS = ("exit", "stop", "raise", "cancel")
EXIT_CODE = 86


class InjectedFault(Exception):
    """Raised by a crash point whose action is `raise`."""


@dataclass(slots=True)
class _Armed:
    name: str
    remaining: int
    action: str


_armed: _Armed | None = None


def arm(setting: str) -> None:
    """Make the point `name` act the `nth` time a task comes by: `name:nth:action`. An empty setting disarms.

    Raises `ConfigurationError`.
    """
    global _armed  # noqa: PLW0603 - one process has one armed fault
    if not setting:
        _armed = None
        return
    name, _, rest = setting.partition(":")
    nth, _, action = rest.partition(":")
    if action not in ACTIONS or not nth.isdecimal() or int(nth) < 1:
        raise ConfigurationError(f"REMIT_FAULT must be name:nth:action, the action one of {', '.join(ACTIONS)}.")
    if name not in NAMES:
        raise ConfigurationError(f"REMIT_FAULT: there is no crash point {name!r}: `remit faults list` shows them all.")
    log.warning("fault_armed", point=name, nth=nth, action=action)
    _armed = _Armed(name, int(nth), action)


def arm_from_environment() -> None:
    """Called once when a service starts."""
    arm(os.environ.get("REMIT_FAULT", ""))


def point(name: str) -> None:
    """Here the process may be made to fail."""
    if _armed is not None and _armed.name == name:
        _come_by(_armed)


def _come_by(armed: _Armed) -> None:
    armed.remaining -= 1
    if armed.remaining != 0:
        return
    log.warning("fault_fired", point=armed.name, action=armed.action)
    match armed.action:
        case "exit":
            os._exit(EXIT_CODE)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise InjectedFault(armed.name)
        case _:
            raise asyncio.CancelledError(armed.name)
