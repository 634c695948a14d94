"""Named crash points (FAULTS.md): places where a test makes this process die, stop, stumble or be cancelled.

Off unless `REMIT_FAULT=name:nth:action` is set; then loudly logged. Off, a point costs one comparison.
"""

import asyncio
import os
import signal
from dataclasses import dataclass

import structlog

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


def _read(setting: str) -> _Armed | None:
    if not setting:
        return None
    name, nth, action = setting.split(":")
    if action not in ACTIONS:
        raise SystemExit(f"REMIT_FAULT: the action must be one of {', '.join(ACTIONS)}")
    log.warning("fault_armed", point=name, nth=nth, action=action)
    return _Armed(name, int(nth), action)


_armed = _read(os.environ.get("REMIT_FAULT", ""))


def point(name: str) -> None:
    """Here the process may be made to fail, the nth time it comes by."""
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
