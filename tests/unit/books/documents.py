"""Reads the documents of this repository for the tests."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
FOLDERS: Final = (".github", "services", "shared", "deploy", "tests")

README: Final = ROOT / "README.md"
SERVICES: Final = ROOT / "services/README.md"
STAFF: Final = ROOT / "services/staff/README.md"
SHARED: Final = ROOT / "shared/README.md"
LANGUAGE: Final = ROOT / "shared/contracts/README.md"
DEPLOY: Final = ROOT / "deploy/README.md"
CONFIGURATION: Final = ROOT / "deploy/CONFIGURATION.md"
TESTS: Final = ROOT / "tests/README.md"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_LINK = re.compile(r"\[((?:[^\[\]]|\\.)*)\]\(([^()\s]+)\)")
_REMARK = re.compile(r"\([^()]*\)")


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    return sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


def name_of(path: Path) -> str:
    """The path as a person types it at the top of the repository."""
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """The text without its blocks of code."""
    return _INDENTED.sub("", _FENCE.sub("", path.read_text()))


def code_spans(text: str) -> list[str]:
    """The texts in backticks."""
    return _CODE.findall(text)


def code_lines(path: Path) -> Iterator[str]:
    """Everything that a reader could type: each code span, and each line of a block that is no diagram."""
    text = path.read_text()
    for language, block in _FENCE.findall(text):
        if language != "mermaid":
            yield from block.splitlines()
    without = _FENCE.sub("", text)
    yield from (line.strip() for line in _INDENTED.findall(without))
    yield from code_spans(_INDENTED.sub("", without))


# -- tables --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DocumentTable:
    """A table; each of `rows` has a cell for each word of `header`."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> list[str]:
        return [row[self.header.index(name)] for row in self.rows]

    def codes(self, name: str) -> list[str]:
        """All code spans of a column, in order."""
        return [code for cell in self.column(name) for code in code_spans(cell)]


def tables(path: Path, *header: str) -> list[DocumentTable]:
    """The tables whose header begins with these words. There must be one: a test on a document without its table would prove nothing."""
    found = [table for table in _all_tables(prose(path)) if table.header[: len(header)] == header]
    assert found, f"{name_of(path)} has no table | {' | '.join(header)} | any more: the tests read it, so put it back"
    return found


def table(path: Path, *header: str) -> DocumentTable:
    """The one table whose header begins with these words; if there are several, the one with exactly this header."""
    found = tables(path, *header)
    found = [one for one in found if one.header == header] or found
    assert len(found) == 1, (
        f"{name_of(path)} has {len(found)} tables | {' | '.join(header)} |: give them different headers"
    )
    return found[0]


def _all_tables(text: str) -> Iterator[DocumentTable]:
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.startswith("|---"):
            rows = []
            for row in lines[at + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(_cells(row))
            header = _cells(lines[at - 1])
            assert all(len(row) == len(header) for row in rows), (
                f"a row of the table {header} has too many or too few cells"
            )
            yield DocumentTable(header, tuple(rows))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


# -- links ---------------------------------------------------------------------------------------------------------------------------------


def links(path: Path) -> list[str]:
    """The targets of all links."""
    return [target for _, target in _LINK.findall(prose(path))]


def anchors(path: Path) -> set[str]:
    """The fragments of all headings, as GitHub makes them for links."""
    return {_slug(heading) for heading in _HEADING.findall(_FENCE.sub("", path.read_text()))}


def _slug(heading: str) -> str:
    words = re.sub(r"[^\w\- ]", "", _LINK.sub(r"\1", heading).lower())
    return words.replace(" ", "-")


# -- diagrams ------------------------------------------------------------------------------------------------------------------------------

Edge = tuple[str, str, str]
"""A transition: from, event, to."""
BEGINNING: Final = "[*]"


@dataclass(frozen=True, slots=True)
class StateDiagram:
    """A state diagram. `edges`: the arrows with a label, one for each word of the label; words in brackets are remarks."""

    states: frozenset[str]
    edges: frozenset[Edge]


def mermaid_blocks(path: Path, kind: str) -> list[str]:
    """The diagrams of one kind, such as `stateDiagram-v2`, without that first line."""
    blocks = [block for language, block in _FENCE.findall(path.read_text()) if language == "mermaid"]
    return [block.partition("\n")[2] for block in blocks if block.startswith(f"{kind}\n")]


def state_diagram(path: Path, of: str) -> StateDiagram:
    """The state diagram with the line `%% of: <of>`. An arrow from a composite state leaves each state in it."""
    found = [block for block in mermaid_blocks(path, "stateDiagram-v2") if f"%% of: {of}\n" in block]
    assert len(found) == 1, f"{name_of(path)} has {len(found)} state diagrams with the line `%% of: {of}`: it needs one"
    return _read_states(found[0].splitlines())


def _read_states(lines: Sequence[str]) -> StateDiagram:
    composites: dict[str, set[str]] = {}
    arrows: list[tuple[str, str, str]] = []
    states: set[str] = set()
    inside: str | None = None
    for line in (line.strip() for line in lines):
        if not line or line.startswith("%%"):
            continue
        if opened := re.fullmatch(r"state (\w+) \{", line):
            inside = opened[1]
            composites[inside] = set()
            continue
        if line == "}":
            inside = None
            continue
        arrow, _, label = line.partition(" : ")
        names = [name.strip() for name in arrow.split("-->")]
        if len(names) > 1:
            arrows.append((names[0], label, names[1]))
        states.update(names)
        if inside is not None:
            composites[inside].update(name for name in names if name != BEGINNING)
    states -= {BEGINNING, *composites}
    edges = {
        (each, what, end)
        for start, label, end in arrows
        for each in composites.get(start, {start})
        for what in _happenings(label)
    }
    return StateDiagram(frozenset(states), frozenset(edges))


def _happenings(label: str) -> list[str]:
    return [word.strip() for word in _REMARK.sub("", label).split(",") if word.strip()]
