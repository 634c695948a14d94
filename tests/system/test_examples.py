"""The examples for senders, typed as their page says: they issue, pay, hear the outcome, send again after a doubt, and encrypt a card.

They run as a system upstream does, with the permissions of a sender and a listener.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from deploy.demo import up
from deploy.local.stack import UPSTREAM, Stack
from deploy.local.system import System, remit
from tests.faults.frames import Amqp, FrameEvent
from tests.faults.proxy import Network, Proxy
from tests.support.environment import ROOT
from tests.support.languages import LANGUAGES
from tests.system.conftest import a_system
from tests.system.test_up import type_in

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]  # a compiler may have to be installed first

PAGE: Final = ROOT / "shared/contracts/SENDERS.md"
EXAMPLES: Final = ROOT / "shared/kit/examples"
LINES: Final = {
    (words.partition(",")[0], "first.py" in line): line
    for words, line in re.findall(r"^\| (\w+[^|]*) \| `(.*)` \|$", PAGE.read_text(), re.MULTILINE)
    if "INV-" in line
}
"""What to type, by language, and whether it is the kit's."""


@pytest.fixture(scope="module")
def whole_system(stack: Stack) -> Iterator[System]:
    yield from a_system(stack)


@pytest.fixture
def environment_file(system: System, tmp_path: Path) -> Path:
    """The variables of `make up`."""
    up.write_environment(system, tmp_path / "env")
    return tmp_path / "env"


@pytest.fixture
def open_to_all(system: System) -> Iterator[None]:
    """An invoice service that takes commands of senders without a name."""
    system.fleet.stop("invoice")
    system.fleet.start("invoice", SENDERS="trusted")
    yield
    system.fleet.stop("invoice")


class Typist:
    """Types a line of the page, for another invoice and another method."""

    def __init__(self, line: str, environment_file: Path) -> None:
        self._line = line
        self._file = environment_file

    def pays(self, invoice: str, method: str, *, by: Proxy | None = None) -> "subprocess.CompletedProcess[str]":
        line = re.sub(r" INV-\w+.*$", f" {invoice} {method}", self._line)
        return type_in(f"export REMIT_URL={by.url}; {line}" if by else line, self._file)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_example_pays_an_invoice(
    system: System, language: str, environment_file: Path, network: Network, request: pytest.FixtureRequest
) -> None:
    LANGUAGES[language].require()
    is_shell = language == "shell"
    if is_shell:  # its tools cannot say who sends
        request.getfixturevalue("open_to_all")
    typist = Typist(LINES[language, False], environment_file)
    proxy = network.stand_before(system.stack.rabbitmq_url_of(UPSTREAM), speaks=Amqp)
    invoice, declined = (f"{language}-{uuid4()}" for _ in range(2))

    lost = proxy.drop(FrameEvent.PUBLISHED, about="PayInvoice") if is_shell else proxy.drop(FrameEvent.CONFIRM)
    done = typist.pays(invoice, "card", by=proxy)
    assert (done.returncode, lost.fired) == (0, 1), (done.stdout, done.stderr)
    assert "sent again" in done.stdout
    assert "paid, receipt ch_" in done.stdout
    assert f"{invoice}: paid," in remit(system, "invoice", "show", invoice).stdout

    done = typist.pays(declined, "pm_card_chargeDeclined")
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "not charged: declined, generic_decline" in done.stderr.replace('"', "")
    done = typist.pays(declined, "pm_card_visa")
    assert done.returncode == 1, "the invoice is there already"
    assert "already_issued" in done.stdout + done.stderr


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_example_that_is_not_told_what_to_pay_says_so(language: str, environment_file: Path) -> None:
    """A sender that goes on without would send an invoice with no number."""
    LANGUAGES[language].require()
    done = type_in(re.sub(r" INV-\w+.*$", "", LINES[language, False]), environment_file)
    assert done.returncode != 0
    assert "INVOICE TOKEN|card" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_shell_says_why_no_answer_may_come(system: System, environment_file: Path) -> None:
    """Where senders have names, its commands have none: the refusal is sent to no queue, since it may be another's."""
    LANGUAGES["shell"].require()
    line = re.sub(r" INV-\w+.*$", f" shell-{uuid4()} pm_card_visa", LINES["shell", False])
    done = type_in(f"{line} 2>&1 | grep --max-count 1 trusted", environment_file)
    assert "Where Remit does not run with SENDERS=trusted none will come" in done.stdout


def test_the_first_example_is_as_short_as_it_looks(system: System, environment_file: Path) -> None:
    line = LINES["Python", True]
    done = type_in(line, environment_file)
    assert (done.returncode, "paid, receipt ch_" in done.stdout) == (0, True), (done.stdout, done.stderr)
    pasted = re.findall(
        r"^<!-- include \S+first.py -->\n```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    assert pasted == [(EXAMPLES / "first.py").read_text()], "what is pasted from the page is what was tried"


def test_every_example_is_tried_and_needs_nothing_of_ours() -> None:
    programs = {path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name != "package.json"}
    assert programs == {"first.py", *(language.file for language in LANGUAGES.values())}
    assert LINES.keys() == {("Python", True), *((language, False) for language in LANGUAGES)}
    for language in LANGUAGES.values():
        text = (EXAMPLES / language.file).read_text()
        assert "REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F" in text
        assert "remit_kit" not in text
