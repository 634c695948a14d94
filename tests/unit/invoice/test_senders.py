"""Who sent a command, whose invoices it may touch, where its answer may go, and under which id it is kept."""

from base64 import b64encode
from typing import Any
from uuid import UUID

import pytest

from services.invoice.senders import Senders
from services.invoice.settings import InvoiceSettings
from shared.amqp.lenient_decoding import readable
from shared.ids import id_of_command
from shared.messaging.consumer import Delivery
from shared.settings import ConfigurationError, EnvironmentVariables

PROCESS = b"\x83Xw\x07reply@1" + bytes(12)
ID = UUID(int=1)
DIRECT = f"amq.rabbitmq.reply-to.{b64encode(PROCESS).decode()}.{b64encode(bytes(16)).decode()}"
"""An address as RabbitMQ makes it."""
NAMED = Senders(are_named=True)
URLS = {"RABBITMQ_URL": "amqp://localhost", "INVOICE_DATABASE_URL": "postgresql://localhost/invoice"}


def read(**variables: str) -> Senders:
    return InvoiceSettings.read(EnvironmentVariables(URLS | variables)).of_senders()


def delivery(user_id: str | None, **headers: Any) -> Delivery:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Delivery(b"", 1, 1, "q", "e", "k", None, None, None, None, None, headers=named, user_id=user_id)


def test_senders_are_trusted_only_if_somebody_said_so() -> None:
    assert read(SENDERS="trusted") == Senders()
    with pytest.raises(ConfigurationError, match=r"SENDERS is not set: it must be named, .* or trusted, "):
        read()


def test_groups_share() -> None:
    senders = read(SENDERS="named", SENDER_GROUPS="eu, us;a,b", UNOWNED_INVOICES="eu")
    assert senders.may_use("eu", "us")
    assert senders.may_use("b", "a")
    assert not senders.may_use("eu", "a")
    assert not senders.may_use("a", None)
    assert senders.may_use("eu", None)
    assert read(SENDERS="named", UNOWNED_INVOICES="*").may_use("anyone", None)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SENDERS", "Named"),
        ("SENDERS", "yes"),
        ("SENDER_GROUPS", "alone"),
        ("SENDER_GROUPS", "a,b;b,c"),
        ("SENDER_GROUPS", "a,a"),
        ("SENDER_GROUPS", "a,;b,c"),
        ("SENDER_GROUPS", "a,b;"),
        ("SENDER_GROUPS", "a,\x1b[31m"),
        ("SENDER_GROUPS", "a," + "b" * 256),
        ("UNOWNED_INVOICES", "a,,b"),
    ],
)
def test_a_wrong_setting_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{variable} must "):
        read(**{"SENDERS": "named", variable: value})


@pytest.mark.parametrize(
    ("sender", "owner", "may"),
    [("a", "a", True), ("a", "b", False), ("a", None, False), (None, None, False), (None, "a", False)],
)
def test_an_invoice_belongs_to_who_issued_it(sender: str | None, owner: str | None, *, may: bool) -> None:
    assert NAMED.may_use(sender, owner) is may
    assert Senders().may_use(sender, owner)


@pytest.mark.parametrize(
    ("arrived", "named", "trusted"),
    [
        (delivery(None), None, None),
        (delivery("billing"), "billing", "billing"),
        (delivery("billing", x_remit_sender="shop"), "billing", "billing"),
        (delivery("staff", x_remit_sender="shop", x_remit_replays=1), "shop", "shop"),
        (delivery("staff", x_remit_replays=1), None, None),
        (delivery("staff", x_remit_sender=b"shop", x_remit_replays=1), None, None),
        (delivery("billing", x_remit_sender="shop", x_remit_replays=1), "billing", None),
        (delivery(None, x_remit_sender="shop", x_remit_replays=1), None, None),
        (delivery("bad\x1bname"), None, None),
        (delivery("b\ue1ffd"), None, None),
        (delivery("b?d"), "b?d", "b?d"),
        (delivery(""), None, None),
    ],
)
def test_only_staff_say_for_whom_they_send(arrived: Delivery, named: str | None, trusted: str | None) -> None:
    assert NAMED.name_of(arrived) == named
    assert Senders().name_of(arrived) == trusted


def test_another_user_can_be_that_of_staff() -> None:
    senders = read(SENDERS="named", STAFF_USER="desk")
    assert senders.name_of(delivery("desk", x_remit_sender="shop")) == "shop"
    assert senders.name_of(delivery("staff", x_remit_sender="shop")) == "staff"


def test_the_same_id_of_two_senders_is_kept_apart() -> None:
    kept = {NAMED.ids_of(ID, sender)[0] for sender in ("a", "b", None)}
    assert len(kept) == 3
    assert ID not in kept


def test_a_command_is_found_whatever_the_setting_was_when_it_came() -> None:
    assert NAMED.ids_of(ID, "a") == (id_of_command("a", ID), ID)
    assert Senders().ids_of(ID, "a") == (ID, id_of_command("a", ID))
    assert NAMED.ids_of(ID, None)[1] is None, "nobody knows who sent it"
    assert Senders().ids_of(ID, None) == (ID, None)


@pytest.mark.parametrize(
    ("reply_to", "sender", "allowed"),
    [
        ("billing.answers", "billing", True),
        (DIRECT, "billing", True),
        (DIRECT, None, True),
        ("billing.answers", None, False),
        ("shop.answers", "billing", False),
        ("billing", "billing", False),
        ("billingshop.answers", "billing", False),
        ("amq.gen-1", "billing", False),
        ("invoice.settlement", "invoice", False),
        ("billing.eu.answers", "billing.eu", False),
        ("billing.eu.answers", "billing", True),
        (DIRECT, "billing.eu", True),
        ("", "billing", False),
        (None, "billing", False),
    ],
)
def test_an_answer_goes_to_its_sender(reply_to: str | None, sender: str | None, *, allowed: bool) -> None:
    assert NAMED.answers_to(reply_to, sender) == (reply_to if allowed else None)


def test_a_sender_whose_name_has_a_dot_hears_why_its_queue_is_not_answered() -> None:
    assert NAMED.problem_of("billing.eu.answers", "billing.eu") == (
        "reply_to is no direct reply-to, and your name has a dot: what begins with it may be the queue of another sender"
    )


def test_a_trusted_sender_is_answered_anywhere_but_on_our_queues() -> None:
    assert Senders().answers_to("anywhere", None) == "anywhere"
    assert Senders().answers_to("saga.events", None) is None


def test_an_address_of_rabbitmq_4_belongs_to_the_sender_whose_queue_it_names() -> None:
    assert NAMED.answers_to("/queues/billing.answers", "billing") == "billing.answers"
    assert NAMED.answers_to("/queues/billing.answers", "shop") is None
    assert NAMED.answers_to("/queues/billing%2Eanswers", "shop") is None


@pytest.mark.parametrize("senders", [Senders(), NAMED])
@pytest.mark.parametrize(
    "reply_to", [None, "", readable(b"billing.a\0b"), readable(b"b\xfcro"), readable(b"/queues/\xff")]
)
def test_an_address_that_cannot_be_read_is_none(senders: Senders, reply_to: str | None) -> None:
    """Marks are sent as the bytes they stand for: nobody knows whose queue that would be."""
    assert senders.problem_of(reply_to, "billing") is None
    assert senders.answers_to(reply_to, "billing") is None
