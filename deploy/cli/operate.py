"""What operators do to services: run, migrate, topology, rebuild."""

import asyncio
import os
import re
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import limits
from deploy.cli.output import MISUSED, REFUSED, CliError, Json, fail, say, write_json, write_line

if TYPE_CHECKING:
    from shared.persistence.migrate import Migrated

SERVICES_FOLDER = Path(__file__).parents[2] / "services"


class Service(StrEnum):
    INVOICE = "invoice"
    PAYMENT_GATEWAY = "payment_gateway"
    SAGA = "saga"
    STAFF = "staff"


class Program(StrEnum):
    """What can be run: the services, the desk of the staff service, and the door of the invoice service."""

    INVOICE = "invoice"
    PAYMENT_GATEWAY = "payment_gateway"
    SAGA = "saga"
    STAFF = "staff"
    DESK = "desk"
    DOOR = "door"

    @property
    def module(self) -> str:
        """The package that is run."""
        beside = {Program.DESK: "staff.desk", Program.DOOR: "invoice.door"}
        return f"services.{beside.get(self, self.value)}"


topology = typer.Typer(no_args_is_help=True, help="Exchanges, queues and bindings on the broker.")


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(run)
    app.command()(migrate)
    app.add_typer(topology, name="topology")
    app.command()(rebuild)


def run(
    service: Annotated[Program, typer.Argument(help="Which.", show_default=False)],
    *,
    json: Annotated[bool, typer.Option("--json", help="Log JSON lines, for programs.")] = False,
) -> None:
    """Run one service, the staff desk or the door in this process until SIGTERM or Ctrl-C: the same as `python -m services.SERVICE`."""
    if json:
        os.environ["LOG_FORMAT"] = "json"
    os.execv(sys.executable, [sys.executable, "-m", service.module])  # noqa: S606 - no shell, and no input but an enum


def migrate(
    services: Annotated[
        list[Service] | None, typer.Argument(help="Services. Default: all.", show_default=False)
    ] = None,
    *,
    post: Annotated[
        bool,
        typer.Option(
            "--post",
            help="Apply the post steps as well: only when no instance of an earlier build is left, which could not run on them.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Bring databases to the schema that this build needs. Safe to run again, and beside running services.

    A release has four steps: `remit migrate` applies the pre steps, on which earlier instances still run; start the new build; stop the
    old one; `remit migrate --post` removes what only the old one used.
    """
    migrated = asyncio.run(_migrate(services or list(Service), post=post))
    if json:
        write_json({service: [step.revision for step in done.applied] for service, done in migrated.items()})
        return
    for service, done in migrated.items():
        what = f"applied {', '.join(step.revision for step in done.applied)}" if done.applied else "nothing to do"
        waiting = (
            f"; for `remit migrate --post`: {', '.join(step.name for step in done.waiting)}" if done.waiting else ""
        )
        write_line(f"{service}: {what}{waiting}")


async def _migrate(services: list[Service], *, post: bool) -> "dict[str, Migrated]":
    from shared.persistence.migrate import AnotherServiceError, PostStepFirstError  # noqa: PLC0415 - SQLAlchemy and Alembic
    from shared.persistence.migrate import migrate as migrate_one  # noqa: PLC0415
    from shared.settings import EnvironmentVariables, database_variable  # noqa: PLC0415

    environment = EnvironmentVariables()
    urls = {service: environment.database_url(service.value) for service in services}  # fails before any work
    migrated: dict[str, Migrated] = {}
    for service, url in urls.items():
        try:
            migrated[service.value] = await migrate_one(url, SERVICES_FOLDER / service.value / "migrations", post=post)
        except PostStepFirstError as error:
            raise CliError(f"{service.value}: {error}.", REFUSED) from None
        except AnotherServiceError as error:
            raise CliError(f"{database_variable(service.value)}: {error}.", MISUSED) from None
        except (OSError, TimeoutError) as error:
            raise _away(service, error) from None
        except Exception as error:
            if (refused := _of_the_driver(error)) is None:
                raise
            raise _away(service, refused) from None
    return migrated


def _of_the_driver(error: BaseException | None) -> Exception | None:
    """The error of the database's client: a wrong password, or a database that does not exist. SQLAlchemy wraps it. None if it is none."""
    while error is not None:
        if isinstance(error, Exception) and type(error).__module__.startswith("asyncpg"):
            return error
        error = error.__cause__
    return None


def _away(service: Service, error: Exception) -> CliError:
    from shared.observability.redaction import describe_error  # noqa: PLC0415
    from shared.persistence.database import mistake_of  # noqa: PLC0415
    from shared.settings import database_variable  # noqa: PLC0415

    variable = database_variable(service.value)
    if (mistake := mistake_of(error)) is not None:
        return CliError(f"{variable}: {mistake}", MISUSED)
    return CliError(f"{variable}: cannot migrate ({describe_error(error)}).", REFUSED)


@topology.command("apply")
def apply(
    *,
    replace: Annotated[
        bool,
        typer.Option(
            help="Delete and create an exchange whose type is not the expected one. Other systems' bindings to it are lost, and so is what "
            "is published without `mandatory` in that moment."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Create what is missing. A queue whose settings differ is reported, never deleted: it holds messages."""
    from shared.messaging.apply import apply_topology, leftovers  # noqa: PLC0415 - loads the contracts and the client
    from shared.messaging.optional_queues import OptionalQueueSettings  # noqa: PLC0415
    from shared.messaging.topology import EXCHANGES, QUEUES  # noqa: PLC0415
    from shared.settings import EnvironmentVariables  # noqa: PLC0415

    variables = EnvironmentVariables()
    url, unbound = variables.rabbitmq_url(), OptionalQueueSettings.read(variables).unbound
    asyncio.run(apply_topology(url, replace=replace, unbound=unbound))
    notes = asyncio.run(leftovers(url))
    if json:
        write_json({"exchanges": [e.name for e in EXCHANGES], "queues": [q.name for q in QUEUES], "notes": notes})
    else:
        write_line(f"{len(EXCHANGES)} exchanges and {len(QUEUES)} queues are as they should be.")
        _say_all(notes)


def _say_all(sentences: list[str]) -> None:
    for sentence in sentences:
        write_line(sentence)


@topology.command("prune")
def prune(
    *,
    connections: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What `rabbitmqctl list_connections client_properties --formatter json` prints; `-`: stdin. Nothing is removed while "
            "another build is connected.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Remove the bindings and exchanges of earlier versions. Only once none of their instances runs, and no sender publishes there."""
    from deploy.cli.builds import COMMAND, connected_builds, others  # noqa: PLC0415
    from shared.messaging.apply import prune_topology  # noqa: PLC0415
    from shared.messaging.optional_queues import OptionalQueueSettings  # noqa: PLC0415
    from shared.settings import EnvironmentVariables  # noqa: PLC0415

    if connections is None:
        say(f"Which builds are connected was not seen: `{COMMAND} | remit topology prune --connections -` looks first.")
    elif left := others(connected_builds(connections, tuple(Service))):
        fail(f"other builds are connected, which may need what this would remove: {', '.join(map(str, left))}.")
    variables = EnvironmentVariables()
    unbound = OptionalQueueSettings.read(variables).unbound
    asyncio.run(prune_topology(variables.rabbitmq_url(), unbound=unbound))
    if json:
        write_json({"ok": True})
    else:
        write_line("Nothing of an earlier version is bound any more.")


@topology.command("check")
def check(*, json: Json = False) -> None:
    """Report what is missing or different; change nothing that exists."""
    from shared.messaging.apply import check_topology, leftovers  # noqa: PLC0415
    from shared.settings import EnvironmentVariables  # noqa: PLC0415

    url = EnvironmentVariables().rabbitmq_url()
    problems = asyncio.run(check_topology(url))
    notes = asyncio.run(leftovers(url))
    if json:
        write_json({"ok": not problems, "problems": problems, "notes": notes})
    else:
        _say_all([*(problems or ["Everything is there."]), *notes])
    if problems:
        if not json:
            say("Run `remit topology apply`.")
        raise typer.Exit(REFUSED)


limits.register(topology)


def rebuild(
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace a stored state that differs by the folded one.")
    ] = False,
    json: Json = False,
) -> None:
    """Fold the events of every invoice again and compare with what is stored."""
    arguments = [sys.executable, "-m", "services.invoice", "rebuild", *(["--repair"] if repair else [])]
    if not json:
        os.execv(sys.executable, arguments)  # noqa: S606 - no shell, no input
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    counted = re.match(r"(\d+) streams folded, (\d+) differ\n", done.stdout)
    if counted is None:
        fail("the rebuild did not finish.", done.returncode or REFUSED)
    write_json({"streams": int(counted[1]), "differing": done.stdout.splitlines()[1:], "repaired": repair})
    raise typer.Exit(done.returncode)
