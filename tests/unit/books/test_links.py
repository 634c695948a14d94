"""What a document refers to exists: files, headings, commands."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pytest
from typer.main import get_command

from deploy.cli.main import build
from tests.unit.books.documents import ROOT, anchors, code_lines, code_spans, documents, links, name_of, prose
from tests.unit.books.source import make_targets

FOREIGN: Final = re.compile(r"[a-z]+:")
DOCUMENTS: Final = [pytest.param(path, id=name_of(path)) for path in documents()]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in links(path):
        if FOREIGN.match(link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name_of(path)}: the link {link} leads to nothing: correct it"
        assert target.is_relative_to(ROOT), f"{name_of(path)}: the link {link} leaves the repository"
        if anchor:
            assert anchor in anchors(target), (
                f"{name_of(path)}: {name_of(target)} has no heading #{anchor}; it has {sorted(anchors(target))}"
            )


SOURCE_FILE: Final = re.compile(r"[\w./<>-]*\w\.(py|md|sql|toml|txt)")
TOP: Final = ("", "shared", "services", "tests", "deploy")


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_file_that_is_named_exists(path: Path) -> None:
    """Names with a folder: relative to the top, to the document's own folder, or to a top folder."""
    for named in code_spans(prose(path)):
        if "/" not in named or "<" in named or not SOURCE_FILE.fullmatch(named) or named.startswith((".remit", "/")):
            continue
        folders = (path.parent, *(ROOT / folder for folder in TOP))
        assert any((folder / named).exists() for folder in folders), f"{name_of(path)}: there is no file {named}"


def test_the_root_readme_leads_to_every_document() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        targets = [(path.parent / link.partition("#")[0]).resolve() for link in links(path) if not FOREIGN.match(link)]
        waiting += [target for target in targets if target.suffix == ".md" and target.exists()]
    lost = sorted(map(name_of, set(documents()) - reached))
    assert not lost, f"no link leads from README.md to {lost}: add one"


# -- commands ------------------------------------------------------------------------------------------------------------------------------

MAKE: Final = re.compile(r"(?<![\w./-])make ([a-z-]+)(?= |$)")
MODULE: Final = re.compile(r"python -m ([a-z_.]+)")
REMIT: Final = re.compile(r"(?<![\w./-])remit ([a-z][a-z -]*)")
OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_target_of_make_exists(path: Path) -> None:
    for line in code_lines(path):
        for target in MAKE.findall(line):
            assert target in make_targets(), f"{name_of(path)}: the Makefile has no target {target}: `{line}`"


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_module_that_is_run_exists(path: Path) -> None:
    for line in code_lines(path):
        for module in MODULE.findall(line):
            assert find_spec(module) is not None, f"{name_of(path)}: there is no module {module}: `{line}`"


@cache
def remit_command(first: str) -> Any:
    """The command line of `remit`, with the command `first` loaded."""
    return get_command(build(first))


@pytest.mark.parametrize("path", DOCUMENTS)
def test_every_command_of_remit_exists(path: Path) -> None:
    for line in code_lines(path):
        if (found := REMIT.search(line)) is None:
            continue
        words = found[1].split()
        command = remit_command(words[0])
        for word in words:
            subcommands = getattr(command, "commands", None)
            if (
                subcommands is None
                or word.startswith("-")
                or (command.invoke_without_command and word not in subcommands)
            ):
                break  # the rest are arguments, or words about them
            assert word in subcommands, (
                f"{name_of(path)}: `remit` has no such command: `{line}`; it has {sorted(subcommands)}"
            )
            command = subcommands[word]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        unknown = set(OPTION.findall(line[found.start() :])) - known - {"--help"}
        assert not unknown, f"{name_of(path)}: `{line}` has no option {sorted(unknown)}; it has {sorted(known)}"
