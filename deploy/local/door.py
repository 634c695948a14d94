"""The door on this machine: started with a token for each sender that is set up there, so that one can ask as a sender does."""

import asyncio
from dataclasses import dataclass, field

from deploy.local.stack import OPERATOR, UPSTREAM
from deploy.local.system import System
from deploy.permissions.databases import DOOR
from services.invoice import sender_tokens
from shared.persistence.database import Database

__all__ = ["DOOR", "LocalDoor", "start_door"]
"""`DOOR` is also the name of the instance in a fleet."""
TOKEN_DAYS = 1


@dataclass(frozen=True, slots=True)
class LocalDoor:
    """Where the door is, and two tokens: that of the system upstream, whose user is in `REMIT_URL`, and that of the operator, as whom
    `remit invoice pay` sends."""

    url: str
    token: str = field(repr=False)
    operator_token: str = field(repr=False)

    @property
    def variables(self) -> dict[str, str]:
        """What another terminal needs to ask."""
        return {
            "REMIT_DOOR_URL": self.url,
            "REMIT_DOOR_TOKEN": self.token,
            "REMIT_OPERATOR_DOOR_TOKEN": self.operator_token,
        }


def start_door(system: System, *, health_port: int = 0) -> LocalDoor:
    """Start the door on a free port of loopback. Its tokens are new ones each time."""
    port = system.fleet.claim_port()
    tokens = asyncio.run(_tokens(system.stack.service_database_url("invoice"), UPSTREAM, OPERATOR))
    system.fleet.start(DOOR, program="services.invoice.door", DOOR_PORT=str(port), HEALTH_PORT=str(health_port))
    return LocalDoor(f"http://127.0.0.1:{port}", *tokens)


async def _tokens(database_url: str, *senders: str) -> list[str]:
    database = await Database.open(database_url, name="remit senders tokens", connections_max=1)
    try:
        return [(await sender_tokens.make(database, sender, days=TOKEN_DAYS)).secret for sender in senders]
    finally:
        await database.close()
