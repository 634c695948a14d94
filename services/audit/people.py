"""Who may do what at the desk, and its settings: each is as the last entry of staff's journal about it says."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from services.audit.align import StoredRow
from services.audit.bodies import OBJECT
from services.audit.finding import Tally
from services.audit.stores import Snapshot

_ENTRIES: Final = """
    SELECT CASE action WHEN 'change_setting' THEN details->>'setting' ELSE subject::text END AS id, action, details FROM journal
    WHERE action IN ('add_person', 'set_roles', 'set_active', 'add_token', 'revoke_token', 'change_setting') ORDER BY position"""
_STANDING: Final = """
    SELECT id::text AS id, name, to_jsonb(roles) AS roles, active, NULL AS ends_at, NULL::jsonb AS value FROM people
    UNION ALL SELECT id::text, name, to_jsonb(roles), revoked_at IS NULL, ends_at, NULL FROM tokens
    UNION ALL SELECT name, NULL, NULL, NULL, NULL, value FROM settings"""


async def people_journalled(counted: Tally, staff: Snapshot) -> None:
    """Every person, every program's token and every setting of the desk is as somebody said in the journal, and none is gone."""
    told: dict[str, dict[str, Any]] = defaultdict(dict)
    async for entry in staff.rows(_ENTRIES):
        told[entry["id"]] |= _told(entry)
    async for row in staff.rows(_STANDING):
        counted.look()
        known = told.pop(row["id"], {})
        if known != _standing(row):
            why = f"the journal says {_in_words(known)}, and it is {_in_words(_standing(row))}"
            counted.breach(row["name"] or row["id"], why)
    for id_, known in told.items():
        counted.breach(known.get("name", id_), f"the journal says {_in_words(known)}, and it is gone")


def _told(entry: StoredRow) -> Mapping[str, Any]:
    """What an entry says of its subject."""
    details: dict[str, Any] = OBJECT.read(entry["details"], {})
    match entry["action"]:
        case "add_person":
            return {"name": details.get("name"), "roles": details.get("roles"), "active": True}
        case "add_token":
            names = ("name", "roles", "ends_at")
            return {name: details.get(name) for name in names} | {"active": True}
        case "revoke_token":
            return {"active": False}
        case _:
            changed: dict[str, Any] = details | OBJECT.read(details.get("after"), {})  # earlier builds had no `after`
            return {name: changed[name] for name in ("roles", "active", "value") if name in changed}


def _standing(row: StoredRow) -> Mapping[str, Any]:
    """How it stands here, in the words of the journal."""
    ends_at = row["ends_at"] and row["ends_at"].isoformat()
    here = {name: row[name] for name in ("name", "roles", "active", "value")} | {"ends_at": ends_at}
    return {name: value for name, value in here.items() if value is not None}


def _in_words(stands: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(stands.items())) or "nothing of it"
