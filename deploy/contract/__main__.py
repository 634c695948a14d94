"""Writes what is published of the contracts. `release` keeps it as the next version; `page` makes it one file to read."""

import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.contract import asyncapi, compatibility, golden, kit_rules, released
from services.staff.desk import contract
from services.staff.desk.frame import STATIC
from shared.contracts import schemas
from shared.contracts.catalogue import MESSAGES

PAGE = Path(".remit/contract.html")


def write() -> None:
    """Write every file, and delete the schemas of messages that no longer exist."""
    _write(golden.texts())
    texts = schemas.texts()
    for stale in set(schemas.FOLDER.glob("*.json")) - texts.keys():
        stale.unlink()
    _write(texts)
    _write({asyncapi.PATH: asyncapi.text(), kit_rules.PATH: kit_rules.text()})


def broken() -> list[str]:
    """What breaks the last released version, if there is one."""
    if not released.numbers():
        return []
    now = {message.wire_name: schemas.schema(message) for message in MESSAGES}
    return compatibility.broken_by(now, asyncapi.document(), released.latest())


def release() -> None:
    """Keep what is published now as the next version. Refused if it breaks the last one, or is the same."""
    if breaking := broken():
        sys.exit("\n".join([f"This would break version {released.latest()}:", *breaking]))
    write()
    number = max(released.numbers(), default=0) + 1
    if number > 1 and released.is_as(number - 1):
        sys.exit(f"Nothing has changed since version {number - 1}.")
    folder = released.keep(number)
    write()  # the document says its version
    released.keep_document(number)
    sys.stdout.write(f"Released version {number}: commit {folder.relative_to(Path.cwd())}\n")


def page() -> None:
    """Write the page of the desk about all this as one file, which needs nothing else."""
    styles = (STATIC / "desk.css").read_text(encoding="utf-8")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(contract.page(asyncapi.document(), styles=styles), encoding="utf-8")
    sys.stdout.write(f"Wrote {PAGE}\n")


def _write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["release"]:
            release()
        case ["page"]:
            page()
        case _:
            write()
