"""`python -m deploy.contract` writes what is published of the contracts; with `release` it keeps that as the next version."""

import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.contract import asyncapi, compatibility, golden, released
from shared.contracts import schemas
from shared.contracts.catalogue import MESSAGES


def write() -> None:
    """Write every file, and delete the schemas of messages that no longer exist."""
    _write(golden.texts())
    texts = schemas.texts()
    for stale in set(schemas.FOLDER.glob("*.json")) - texts.keys():
        stale.unlink()
    _write(texts)
    _write({asyncapi.PATH: asyncapi.text()})


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


def _write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] == ["release"]:
        release()
    else:
        write()
