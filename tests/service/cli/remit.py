"""Runs `remit ...` as an operator does: in a process of its own, with its exit code and output."""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.local.stack import OPERATOR, SERVICES, database_variable
from deploy.permissions.databases import AUDIT, PURGE
from tests.support import forked
from tests.support.environment import Environment

DEADLINE_S = 60.0
_OURS = ("RABBITMQ_URL", "CARD_PUBLIC_KEYS_FILE")


@dataclass(frozen=True, slots=True)
class Typed:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def remit(*arguments: str, environment: Environment | None = None, stdin: str = "", **variables: str) -> Typed:
    """Run one command on the servers of `environment`, with `variables` added to its environment."""
    inherited = {k: v for k, v in os.environ.items() if k not in _OURS and not k.endswith("_DATABASE_URL")}
    servers = {} if environment is None else addresses(environment, arguments[0])
    whole = inherited | {"COLUMNS": "100", "NO_COLOR": "1"} | servers | variables
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stdin").write_text(stdin)
        code = await asyncio.to_thread(forked.run, arguments, whole, folder, within_s=DEADLINE_S)
        return Typed(code, (folder / "stdout").read_text(), (folder / "stderr").read_text())


def addresses(environment: Environment, command: str) -> dict[str, str]:
    """The variables with the servers' URLs, for the users and roles that the command needs (deploy/README.md)."""
    match command:
        case "migrate" | "topology" | "permissions":
            return environment.stack.environment()
        case "audit":
            return environment.stack.environment_of(AUDIT)
        case "purge":
            return {database_variable(own): environment.stack.database_url_of(own, PURGE) for own in SERVICES}
        case "rebuild" | "senders":
            return environment.stack.environment_of("invoice")
        case "reconcile":
            return environment.stack.environment_of("payment_gateway")
        case "outbox":
            own = [environment.stack.environment_of(service) for service in SERVICES]
            return {name: value for variables in own for name, value in variables.items()}
        case _:
            return environment.stack.environment_of(OPERATOR)
