"""What documents show of a file is what the file has."""

from pathlib import Path

import pytest

from deploy.local.snippets import documents, filled
from tests.unit.books.documents import ROOT, name_of

DOCUMENTS = list(documents())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_included_code_is_that_of_its_file(path: Path) -> None:
    assert path.read_text() == filled(path.read_text()), f"{name_of(path)}: run `make schema`"


def test_the_pages_for_senders_include_their_examples() -> None:
    assert {
        ROOT / "shared/contracts/README.md",
        ROOT / "shared/contracts/SENDERS.md",
        ROOT / "shared/kit/README.md",
    } <= {*DOCUMENTS}


@pytest.mark.parametrize("text", ["shared/kit/examples/nothing.py", "shared/kit/examples/pay.py nowhere"])
def test_what_is_not_there_is_not_shown(text: str) -> None:
    with pytest.raises((OSError, ValueError)):
        filled(f"<!-- include {text} -->\n```python\n```")
