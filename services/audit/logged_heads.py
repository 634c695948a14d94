"""Heads of chains that services logged. A chain alone does not show that its end was cut off, or that all of it was made anew."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import orjson

from services.audit.leaks import LINE_MAX, LOG_NAME
from services.audit.stores import Stores

HEAD = re.compile(r"[0-9]{1,18}:[0-9a-f]{64}")
"""`NUMBER:HASH`, of the last link."""


_SNAPSHOT_TAKEN = "SELECT now()"


async def heads_in_logs(stores: Stores, about: Mapping[str, str]) -> dict[str, str]:
    """The heads that a service logged until its database was read, each with its file. `about`: what its lines say, as below."""
    if stores.evidence.logs is None:
        return {}
    taken = await stores.databases[about["service"]].value(_SNAPSHOT_TAKEN)
    return logged_heads(stores.evidence.logs, about, before=taken)


def logged_heads(folder: Path, about: Mapping[str, str], *, before: datetime) -> dict[str, str]:
    """The heads in JSON lines that say all of `about`, each with its file. Any other line may quote what somebody else wrote.

    Those of a time after `before` are left out, since chains grow all the time.
    """
    heads: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and LOG_NAME.search(path.name)):
        for line in lines_of(path):
            if (logged := _logged_head(line, about)) is not None and logged[1] <= before:
                heads[logged[0]] = path.name
    return heads


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file. Of one that is longer than any of ours only the beginning."""
    is_begun = False
    with path.open(encoding="utf-8", errors="replace") as file:
        while piece := file.readline(LINE_MAX):
            if not is_begun:
                yield piece
            is_begun = not piece.endswith("\n")


def _logged_head(line: str, about: Mapping[str, str]) -> tuple[str, datetime] | None:
    """The head and the time of a line, if it is the service's own about a head."""
    if about["event"] not in line:
        return None
    try:
        logged = orjson.loads(line)
        if not all(logged[name] == value for name, value in about.items()) or not HEAD.fullmatch(logged["head"]):
            return None
        time = datetime.fromisoformat(logged["time"])
    except (ValueError, TypeError, KeyError):
        return None
    return (logged["head"], time) if time.tzinfo else None
