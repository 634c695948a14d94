"""The repository explains itself: no line sends a reader to a document that is not in it."""

import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.unit.books.documents import ROOT, name_of

GONE: Final = re.compile(r"\b(?:D[E]SIGN|F[A]CTS|F[A]ULTS)(?:\.md| \d|,|\))")
"""A document of the first design, with its chapter or without. They never were in the repository. (Constants have such names, too, and are
followed by something else; and this line is written so that it is no hit itself.)"""
TEXTS: Final = {".md", ".json", ".toml", ".sql", ".txt", ".yaml", ".yml"}


def test_nothing_cites_a_document_that_is_not_here() -> None:
    cited = [f"{name_of(path)}:{line}" for path in _tracked() for line, text in _said(path) if GONE.search(text)]
    assert not cited, (
        "these cite a document that no reader has; say the fact itself, or name services/README.md, shared/README.md, "
        f"deploy/README.md or tests/README.md: {cited}"
    )


def _tracked() -> list[Path]:
    listed = subprocess.run(("git", "ls-files", "-z"), cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in (ROOT / name for name in listed.split("\0") if name) if path.is_file()]


def _said(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text; of a program what it says to people, its comments and texts."""
    if path.suffix == ".py":
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in {tokenize.COMMENT, tokenize.STRING}:
                    for at, line in enumerate(token.string.splitlines()):
                        yield token.start[0] + at, line
    elif path.suffix in TEXTS or path.name == "Makefile":
        yield from enumerate(path.read_text(errors="replace").splitlines(), start=1)
