"""Documents show code by including it: `python -m deploy.local.snippets` writes into each what the files have.

A block of code belongs to the line above it, `<!-- include PATH -->` or `<!-- include PATH REGION -->`. A region of a file begins at a
comment `region NAME` and ends at the next `endregion`. Paths begin at the top of the repository.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.local.fleet import ROOT

_INCLUDED: Final = re.compile(r"<!-- include (\S+)(?: (\S+))? -->\n```(\w*)\n.*?^```$", re.DOTALL | re.MULTILINE)


def filled(text: str) -> str:
    """The document with the code that its files have now. Raises OSError or ValueError if a file or region is not there."""
    return _INCLUDED.sub(_block, text)


def documents() -> Iterator[Path]:
    """The documents that include code."""
    for folder in ("services", "shared", "deploy", "tests", ".github"):
        yield from (path for path in sorted((ROOT / folder).rglob("*.md")) if "<!-- include " in path.read_text())


def _block(found: "re.Match[str]") -> str:
    path, region, language = found.groups()
    code = (ROOT / path).read_text()
    head = f"<!-- include {path}{f' {region}' if region else ''} -->"
    return f"{head}\n```{language}\n{_region(path, code, region) if region else code}```"


def _region(path: str, code: str, name: str) -> str:
    inside = re.search(rf"^[#/]+ region {name}\n(.*?)^[#/]+ endregion$", code, re.DOTALL | re.MULTILINE)
    if inside is None:
        raise ValueError(f"{path} has no region {name}")
    return inside[1].strip("\n") + "\n"


if __name__ == "__main__":
    for document in documents():
        document.write_text(filled(document.read_text()))
