"""Released versions of what is published: shared/contracts/released/1, 2, … Each is kept as it was, and binds all that come later."""

import json
import shutil
from pathlib import Path
from typing import Any

from shared.contracts import schemas

FOLDER = Path(schemas.__file__).parent / "released"
PUBLISHED = "asyncapi.json"


def numbers() -> list[int]:
    """The released versions, the oldest first."""
    return sorted(int(path.name) for path in FOLDER.iterdir() if path.name.isdecimal()) if FOLDER.exists() else []


def latest() -> int:
    """The last released version; 1 before the first."""
    return max(numbers(), default=1)


def schemas_of(number: int) -> dict[str, dict[str, Any]]:
    """The schemas of a released version, by the names of their messages."""
    paths = sorted((FOLDER / str(number) / "schemas").glob("*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def document_of(number: int) -> dict[str, Any]:
    """The AsyncAPI document of a released version."""
    found: dict[str, Any] = json.loads((FOLDER / str(number) / PUBLISHED).read_text(encoding="utf-8"))
    return found


def is_as(number: int) -> bool:
    """Whether what is published now is this released version."""
    kept = {path.name: path.read_bytes() for path in (FOLDER / str(number) / "schemas").glob("*.json")}
    now = {path.name: path.read_bytes() for path in schemas.FOLDER.glob("*.json")}
    document = (FOLDER / str(number) / PUBLISHED).read_bytes()
    return (kept, document) == (now, (FOLDER.parent / PUBLISHED).read_bytes())


def keep(number: int) -> Path:
    """Keep the schemas that are published now as this version. Raises FileExistsError if it was released before."""
    folder = FOLDER / str(number)
    shutil.copytree(schemas.FOLDER, folder / "schemas", ignore=shutil.ignore_patterns("*.md"))
    keep_document(number)
    return folder


def keep_document(number: int) -> None:
    """Keep the AsyncAPI document that is published now with this version."""
    shutil.copy(FOLDER.parent / PUBLISHED, FOLDER / str(number) / PUBLISHED)
