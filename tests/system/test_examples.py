"""The examples for senders, in each language: they issue, pay, hear the outcome, send again after a doubt, and encrypt a card.

They run as a system upstream does, with the permissions of a sender and a listener, and nothing of this repository beside them.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.stack import UPSTREAM
from deploy.local.system import System, remit
from tests.faults.frames import Amqp, FrameEvent
from tests.faults.proxy import Network
from tests.support.languages import EXAMPLES, LANGUAGES

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]  # a compiler that is installed first

DEADLINE_S = 60.0


@pytest.fixture
def open_to_all(system: System) -> Iterator[None]:
    """An invoice service that takes commands of senders without a name."""
    system.fleet.stop("invoice")
    system.fleet.start("invoice", SENDERS="trusted")
    yield
    system.fleet.stop("invoice")


def pays(
    command: tuple[str, ...], system: System, invoice: str, method: str, *, url: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run an example, with the variables that its head names and no others of ours."""
    plain = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    keys = system.environment["CARD_PUBLIC_KEYS_FILE"]
    return subprocess.run(
        (*command, invoice, method),
        env=plain | {"REMIT_URL": url or system.stack.rabbitmq_url_of(UPSTREAM), "CARD_PUBLIC_KEYS_FILE": keys},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_example_pays_an_invoice(
    system: System, language: str, tmp_path: Path, network: Network, request: pytest.FixtureRequest
) -> None:
    command = LANGUAGES[language].program(tmp_path)
    if language == "shell":  # its tools cannot say who sends
        request.getfixturevalue("open_to_all")
    proxy = network.stand_before(system.stack.rabbitmq_url_of(UPSTREAM), speaks=Amqp)
    invoice, by_card, declined = (f"{language}-{uuid4()}" for _ in range(3))

    lost = (
        proxy.drop(FrameEvent.PUBLISHED, about="PayInvoice") if language == "shell" else proxy.drop(FrameEvent.CONFIRM)
    )
    done = pays(command, system, invoice, "pm_card_visa", url=proxy.url)
    assert (done.returncode, lost.fired) == (0, 1), (done.stdout, done.stderr)
    assert "sent again" in done.stdout
    assert "paid, receipt ch_" in done.stdout
    assert f"{invoice}: paid," in remit(system, "invoice", "show", invoice).stdout

    done = pays(command, system, by_card, "card")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "paid, receipt ch_" in done.stdout
    done = pays(command, system, declined, "pm_card_chargeDeclined")
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert "not charged: declined, generic_decline" in done.stderr.replace('"', "")
    done = pays(command, system, declined, "pm_card_visa")
    assert done.returncode == 1, "the invoice is there already"
    assert "already_issued" in done.stdout + done.stderr


def test_every_example_is_tried() -> None:
    programs = {path.name for path in EXAMPLES.iterdir() if path.name.lower().startswith("pay.")}
    assert programs == {language.file for language in LANGUAGES.values()}


def test_no_example_needs_more_than_its_head_says() -> None:
    """Each is one file: it imports nothing of ours."""
    for language in LANGUAGES.values():
        text = (EXAMPLES / language.file).read_text()
        assert "REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F" in text
        assert "remit_kit" not in text
