"""The staff desk on this machine: started with two accounts, so that one can try what takes a second person."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from deploy.local.errors import StackError
from deploy.local.system import System
from services.staff.actions import accounts
from services.staff.actions.results import ActionRefusal
from services.staff.desk.passwords import hashed, new_password
from services.staff.people import Role, at_terminal
from shared.persistence.database import Database

DESK: Final = "desk"
"""The name of the instance in a fleet."""
PEOPLE: Final = {"ann": tuple(Role), "ben": (Role.VIEWER, Role.REPLAYER, Role.RESOLVER)}
"""Two people with their roles. The first one may do everything."""


@dataclass(frozen=True, slots=True)
class LocalDesk:
    """Where the desk is, and who may sign in with which password."""

    url: str
    names: tuple[str, ...]
    password: str = field(repr=False)

    @property
    def sentence(self) -> str:
        """How to get in, for whoever started it."""
        return f"{self.url}, as {' or '.join(self.names)} with the password {self.password}"


def start_desk(system: System, *, health_port: int = 0) -> LocalDesk:
    """Start the desk on a free port of loopback, with its accounts. Their password is a new one each time."""
    port = system.fleet.claim_port()
    password = new_password()
    asyncio.run(_let_in(system.stack.service_database_url("staff"), password))
    url = f"http://127.0.0.1:{port}"
    system.fleet.start(
        DESK,
        program="services.staff.desk",
        DESK_PORT=str(port),
        DESK_URL=url,
        DESK_ENVIRONMENT="this machine",
        GATEWAY_DASHBOARD_URL=f"{system.sandbox.admin_url}/_sandbox/books/{{id}}",
        HEALTH_PORT=str(health_port),
    )
    return LocalDesk(url, tuple(PEOPLE), password)


async def _let_in(database_url: str, password: str) -> None:
    """Give everybody an account with this password. Those of an earlier run, whose data were kept, get it as well."""
    database = await Database.open(database_url, name="remit desk accounts", connections_max=1)
    who, kept = at_terminal("remit"), hashed(password)
    try:
        for name, roles in PEOPLE.items():
            made = await accounts.add_person(database, name, roles=roles, password=kept, who=who)
            if made.refusal is ActionRefusal.NAME_TAKEN:
                made = await accounts.set_password(database, name, password=kept, who=who)
            if not made.ok:
                raise StackError(f"{name} got no account: {made.text}")
    finally:
        await database.close()
