"""Which build this is: version, revision, Python, libraries. Logs, `remit version` and the connections to the broker tell it."""

import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from shared.records import dataclass

UNKNOWN: Final = "unknown"
REVISION_LENGTH: Final = 12
"""Characters of a commit's name: enough for any repository."""
_DISTRIBUTION: Final = "remit"
_ROOT: Final = Path(__file__).parents[1]
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class RemitBuild:
    """`version` is that of the package, `revision` the commit. Either is "unknown" if nothing tells it."""

    version: str
    revision: str
    python: str

    @property
    def client_properties(self) -> dict[str, str]:
        """What a connection tells the broker, where `rabbitmqctl list_connections client_properties` shows it."""
        return {"remit_version": self.version, "remit_revision": self.revision}


@cache
def this_build() -> RemitBuild:
    """The build that runs: of an image it is what REMIT_VERSION and REMIT_REVISION say, else what the package and its repository say."""
    version = os.environ.get("REMIT_VERSION") or _version_of(_DISTRIBUTION) or UNKNOWN
    revision = os.environ.get("REMIT_REVISION") or _revision(_ROOT) or UNKNOWN
    return RemitBuild(version, revision[:REVISION_LENGTH], platform.python_version())


def libraries() -> Mapping[str, str]:
    """The versions of the libraries that Remit asks for itself and that are installed, by name. Empty if the package is not installed."""
    try:
        required = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    names = sorted({re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required})
    return {name: found for name in names if (found := _version_of(name)) is not None}


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _revision(root: Path) -> str | None:
    """The commit that is checked out at `root`, read from the repository's own files: there may be no git here. None if there is none."""
    try:
        own = root / ".git"
        if own.is_file():  # of a worktree or a submodule: "gitdir: ..."
            own = root / own.read_text(encoding="utf-8").partition(":")[2].strip()
        head = (own / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        common = own / "commondir"
        shared = (own / common.read_text(encoding="utf-8").strip()) if common.is_file() else own
        for folder in (own, shared):
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8").strip()
        packed = (shared / "packed-refs").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return next((line.split()[0] for line in packed.splitlines() if line.endswith(f" {name}")), None)
