"""What a role has to be allowed in its database, and which of it it is not.

`remit permissions` grants it. Each service has it in `rights.json`, which is made of the one table (`deploy.permissions.needs`): PostgreSQL
says of a refused statement which table it was about, and not which right.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.records import dataclass

if TYPE_CHECKING:
    from shared.persistence.database import Connection
else:
    Connection = Any

NAMED_MAX: Final = 3
"""Rights that a sentence names; the rest is counted."""
_LACKING: Final = """
    SELECT needed.privilege || ' on ' || needed.thing || coalesce('.' || needed.part, '') AS words, current_user::text AS role
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS needed (thing, privilege, part, place)
    WHERE NOT CASE
        WHEN needed.privilege = 'USAGE' THEN has_schema_privilege(to_regnamespace(needed.thing), 'USAGE')
        WHEN needed.privilege = 'EXECUTE' THEN has_function_privilege(to_regproc(needed.thing), 'EXECUTE')
        WHEN needed.part IS NULL THEN has_table_privilege(to_regclass(needed.thing), needed.privilege)
        WHEN EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(needed.thing) AND attname = needed.part)
            THEN has_column_privilege(to_regclass(needed.thing), needed.part, needed.privilege)
        ELSE true
    END ORDER BY needed.place"""
"""What is not there, as a table that a post step dropped, needs no right: PostgreSQL answers NULL."""


@dataclass(frozen=True, slots=True)
class Rights:
    """Privileges of one role, in three columns: on which thing, which one, and on which column of it (None: all of it)."""

    things: list[str]
    privileges: list[str]
    parts: list[str | None]


def rights_of(service_folder: Path, process: str) -> Rights | None:
    """What the role of `process` needs: that of its own name, or else that of the service. None in a folder of a test without a file."""
    path = service_folder / "rights.json"
    if not path.exists():
        return None
    by_role = json.loads(path.read_text(encoding="utf-8"))["database"]
    needed: dict[str, dict[str, list[str]]] = by_role.get(process) or by_role[service_folder.name]
    rows: list[tuple[str, str, str | None]] = [("public", "USAGE", None)]
    for thing, privileges in needed.items():
        for privilege, columns in privileges.items():
            rows += [(thing, privilege, column) for column in columns] or [(thing, privilege, None)]
    things, all_privileges, parts = (list(column) for column in zip(*rows, strict=True))
    return Rights(things, all_privileges, parts)


async def lacking(connection: Connection, rights: Rights) -> str | None:
    """Which rights the current role lacks, as a text without a full stop; None if none. One statement."""
    rows = await connection.fetch(_LACKING, rights.things, rights.privileges, rights.parts)
    if not rows:
        return None
    named = ", ".join(row["words"] for row in rows[:NAMED_MAX])
    more = f" and {len(rows) - NAMED_MAX} more" if len(rows) > NAMED_MAX else ""
    return f"role {rows[0]['role']} lacks {named}{more}; `remit permissions` shows what each role needs"
