"""The repository explains itself: no line sends a reader to a document that is not in it."""

import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.unit.books.documents import ROOT, name_of

GONE: Final = re.compile(r"\b(?:D[E]SIGN|F[A]CTS|F[A]ULTS)(?:\.md| \d|,|\))")
"""A document of the first design, with or without a chapter. These were never in the repository. (Constants with such names are followed by
other characters. This line is written so that it does not match itself.)"""
TEXTS: Final = {".md", ".json", ".toml", ".sql", ".txt", ".yaml", ".yml"}


def test_no_line_cites_a_document_that_does_not_exist() -> None:
    cited = [f"{name_of(path)}:{line}" for path in _tracked() for line, text in _said(path) if GONE.search(text)]
    assert not cited, (
        "these cite a document that no reader has; state the fact itself, or name services/README.md, shared/README.md, "
        f"deploy/README.md or tests/README.md: {cited}"
    )


def _tracked() -> list[Path]:
    listed = subprocess.run(("git", "ls-files", "-z"), cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for path in (ROOT / name for name in listed.split("\0") if name) if path.is_file()]


def _said(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text; of a program only its comments and strings."""
    if path.suffix == ".py":
        if not GONE.search(path.read_text()):
            return  # to take it apart takes longer
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in {tokenize.COMMENT, tokenize.STRING}:
                    for at, line in enumerate(token.string.splitlines()):
                        yield token.start[0] + at, line
    elif path.suffix in TEXTS or path.name == "Makefile":
        yield from enumerate(path.read_text(errors="replace").splitlines(), start=1)
