"""The reference of all settings in Markdown: deploy/CONFIGURATION.md is what this makes of the declarations (`make config`)."""

from collections.abc import Iterable, Sequence

from deploy.cli.config import settings_of
from deploy.cli.operate import Program, Service
from deploy.cli.settings import (
    AuditSettings,
    CardSettings,
    DeskAccessSettings,
    DoorAccessSettings,
    StaffPagesSettings,
    TerminalSettings,
)
from shared.service import ServiceSettings
from shared.settings import FOREIGN_VARIABLES, Declared

_HEAD = f"""# Settings

Written by `make config` from the declarations in the code. Do not edit it.

Settings are environment variables, read once at the start. A blank variable counts as one that is not set. A value that is not as this
page says ends the program with exit code 2 and a sentence that names the variable. `remit config check` shows what would be used, and from
where.

- A variable marked *secret* may be given as a file instead: `NAME_FILE` names it, as Docker and Kubernetes mount secrets. Setting both is a
  mistake.
- A variable whose name is nearly one of these is taken for a slip, and ends a service as well. If another program reads it, name it in
  `{FOREIGN_VARIABLES}`, separated by commas. What Kubernetes sets for its services (`INVOICE_PORT=tcp://...`) is passed over.
"""


def reference() -> str:
    """The whole page."""
    kinds = {service.value: settings_of(service.value) for service in Service}
    common = {one.name for one in ServiceSettings.declared()}
    sections = [_section("Every service", ServiceSettings.declared())]
    sections += [
        _section(name, [one for one in kind.declared() if one.name not in common]) for name, kind in kinds.items()
    ]
    of_staff = {one.name for one in settings_of("staff").declared()}
    for program, service in ((Program.DESK, Service.STAFF), (Program.DOOR, Service.INVOICE)):
        known = common | {one.name for one in settings_of(service).declared()}
        own = settings_of(program).declared()
        unread = sorted(common - {one.name for one in own})
        note = f"Those of every service are read as well, but for {', '.join(f'`{name}`' for name in unread)}.\n\n"
        sections.append(_section(program.value, [one for one in own if one.name not in known], note))
    of_remit = (
        StaffPagesSettings,
        DeskAccessSettings,
        DoorAccessSettings,
        CardSettings,
        AuditSettings,
        TerminalSettings,
    )
    sections.append(
        _section("remit", [one for kind in of_remit for one in kind.declared() if one.name not in of_staff])
    )
    return "\n".join([_HEAD, *sections])


def _section(title: str, settings: Sequence[Declared], note: str = "") -> str:
    head = "| variable | default | must be | meaning |\n|---|---|---|---|"
    return f"## {title}\n\n{note}{head}\n{_lines(map(_row, settings))}\n"


def _row(one: Declared) -> tuple[str, str, str, str]:
    meaning = f"{one.about} *Secret.*" if one.is_secret else one.about
    unset = one.unset if one.is_required or not one.has_plain_default else f"`{one.unset}`"
    return f"`{one.name}`", unset, one.must, meaning


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
