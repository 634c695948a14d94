"""`remit config`: which settings would be used, and the reference of all settings."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli.operate import Program
from deploy.cli.output import MISUSED, Json, console, say, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from shared.service import ServiceSettings
    from shared.settings import Declared, EnvironmentVariables, FoundText

app = typer.Typer(no_args_is_help=True, help="Settings: what would be used, and what there is.")


@app.command("check")
def check(
    services: Annotated[
        list[Program] | None, typer.Argument(help="Services, the desk, the door. Default: all.", show_default=False)
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Show the settings that services, the desk and the door would use, from where they come, and what is wrong.

    Asks no server; exit code 2 for a mistake.

    Passwords and keys are not shown.
    """
    from shared.settings import EnvironmentVariables  # noqa: PLC0415 - pydantic

    environment = EnvironmentVariables()
    chosen = services or list(Program)
    kinds = {service.value: settings_of(service.value) for service in chosen}
    rows = {name: _rows(kind, environment) for name, kind in kinds.items()}
    mistakes = [mistake for kind in kinds.values() for mistake in _mistakes(kind, environment)]
    known = [name for kind in kinds.values() for name in kind.known_variables()]
    if (slip := environment.misspelled(known)) is not None:
        mistakes.append(slip)
    mistakes = list(dict.fromkeys(mistakes))  # what all services share is told once
    if json:
        write_json({"settings": rows, "mistakes": mistakes})
    else:
        for name, lines in rows.items():
            console().print(_table(name, lines))
        for mistake in mistakes:
            say(mistake, style="red")
    if mistakes:
        raise typer.Exit(MISUSED)


@app.command("reference")
def reference() -> None:
    """Print the reference of all settings of this build, in Markdown."""
    from deploy.cli.config_reference import reference as render  # noqa: PLC0415 - all services

    sys.stdout.write(render())


def settings_of(service: str) -> "type[ServiceSettings]":
    """The class with the settings of a service, of the desk, or of the door."""
    kind: type[ServiceSettings] = import_module(f"{Program(service).module}.settings").SETTINGS
    return kind


def _mistakes(kind: "type[ServiceSettings]", environment: "EnvironmentVariables") -> Sequence[str]:
    from shared.settings import ConfigurationError  # noqa: PLC0415

    try:
        kind.read(environment)
    except ConfigurationError as error:
        return error.sentences
    return ()


def _rows(kind: "type[ServiceSettings]", environment: "EnvironmentVariables") -> list[dict[str, str]]:
    return [_row(one, environment) for one in kind.declared()]


def _row(declared: "Declared", environment: "EnvironmentVariables") -> dict[str, str]:
    from shared.settings import ConfigurationError  # noqa: PLC0415

    try:
        found = environment.find(declared.name, is_secret=declared.is_secret)
    except ConfigurationError:  # two of them are set, or the file cannot be read: this is among the mistakes
        return {"variable": declared.name, "value": "", "from": "nowhere"}
    if found is None:
        source = "nowhere" if declared.is_required else "default"
        return {"variable": declared.name, "value": "" if declared.is_required else declared.unset, "from": source}
    return {"variable": declared.name, "value": _shown(declared, found), "from": found.origin}


def _shown(declared: "Declared", found: "FoundText") -> str:
    """The value as it may be shown: of a secret nothing, of a URL no password."""
    from shared.observability.redaction import redact  # noqa: PLC0415
    from shared.urls import without_password  # noqa: PLC0415

    if not declared.is_secret:
        return redact(found.text)
    return without_password(found.text) or "(hidden)"


def _table(service: str, rows: Sequence[Mapping[str, Any]]) -> "Table":
    from deploy.cli.tables import plain, table  # noqa: PLC0415 - rich

    page = table()
    page.title, page.title_justify = service, "left"
    for column in ("variable", "value", "from"):
        page.add_column(column, overflow="fold")
    for row in rows:
        page.add_row(*(plain(str(row[column])) for column in ("variable", "value", "from")))
    return page
