"""`python -m deploy.permissions.needs` writes for each service what it has to be allowed: what it is held against at its start.

A service's image has neither this folder nor the other services. So each has its own part of the tables in a file of its own.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deploy.permissions.broker import broker_users
from deploy.permissions.databases import AUDIT, FUNCTIONS, GRANTS, PURGE, SERVICES, Service, users

_SERVICES_FOLDER: Final = Path(__file__).parents[2] / "services"
_PRIVILEGE: Final = re.compile(r"([A-Z]+)(?: \(([^)]*)\))?")


def privileges(words: str) -> dict[str, list[str]]:
    """`SELECT, UPDATE (a, b)` -> the columns of each privilege; none of them means the whole table."""
    return {privilege: columns.split(", ") if columns else [] for privilege, columns in _PRIVILEGE.findall(words)}


def texts() -> Mapping[Path, str]:
    """What each file has to hold."""
    return {
        _SERVICES_FOLDER / service / "rights.json": json.dumps(_of(service), indent=1, sort_keys=True) + "\n"
        for service in SERVICES
    }


def _of(service: Service) -> dict[str, Any]:
    (user,) = (one for one in broker_users() if one.name == service)
    processes = [role for role in users(service) if role not in {AUDIT, PURGE}]
    return {"exchanges": sorted(user.write), "database": {role: _in_database(service, role) for role in processes}}


def _in_database(service: Service, role: str) -> dict[str, dict[str, list[str]]]:
    of_tables = {table: privileges(granted) for table, grant in GRANTS[service].items() if (granted := grant.of(role))}
    functions = FUNCTIONS.get(service, ()) if role == service else ()
    return of_tables | {function: {"EXECUTE": []} for function in functions}


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8")
