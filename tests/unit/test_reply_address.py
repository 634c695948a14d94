"""Which reply addresses are answered: those that the broker can carry, and of direct reply-to those that it wrote itself."""

import os
import struct
from base64 import b64encode

import pytest

from shared.messaging.reply_address import DIRECT, is_direct, kind_of, problem_of, queue_of

# As RabbitMQ 3.10 and 4.x write them; the first is of a public example of RabbitMQ's.
WRITTEN_BY_RABBITMQ = (
    "amq.rabbitmq.reply-to.g1h2AA9yZXBseUAxMjE4OTkyMDEAAAliAAAQxGUp3Wg=.V/BE0fSg1i3Cp0bpYeJqWw==",
    "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA2ODc4MTMzNAAAcEoAAAAAaS8eQg==.AAAAAAAAAAAAAAAAAAAAAA==",
)
KEY = b64encode(bytes(16)).decode()


def address(node: bytes = b"reply@1", *, head: bytes = b"\x83Xw", length: int | None = None, rest: int = 12) -> str:
    process_id = head + bytes([len(node) if length is None else length]) + node + bytes(rest)
    return f"{DIRECT}.{b64encode(process_id).decode()}.{KEY}"


@pytest.mark.parametrize("reply_to", WRITTEN_BY_RABBITMQ)
def test_direct_reply_to_is_answered(reply_to: str) -> None:
    assert (problem_of(reply_to), is_direct(reply_to)) == (None, True)


@pytest.mark.parametrize(
    "reply_to",
    [
        address(),
        address(head=b"\x83Xv\x00"),
        address(head=b"\x83gw", rest=9),
        "billing.answers",
        "amq.gen-JzTY20BRgKO-HjmUJj0wLg",
        "answers of the shop",
        "Antworten für Ümit",
        "x" * 255,
    ],
)
def test_what_the_broker_can_carry_is_answered(reply_to: str) -> None:
    assert problem_of(reply_to) is None


@pytest.mark.parametrize(
    ("reply_to", "why"),
    [
        ("invoice.settlement", "a queue of Remit"),
        ("dead-letters", "a queue of Remit"),
        ("x" * 256, "longer than 255 bytes"),
        ("ü" * 128, "longer than 255 bytes"),
        ("a\nb", "characters"),
        ("\x1b[2J", "characters"),
        ("a\u202eb", "characters"),
        ("was no UTF-8: \ue1ff", "characters"),
        ("/queues/", "no queue"),
        ("/queues/invoice.commands", "a queue of Remit"),
        ("/queues/invoice%2Ecommands", "a queue of Remit"),
        ("/queues/amq.direct", "reserves"),
        ("/exchanges/orders/paid", "/queues/ and its name"),
        ("/queue/mine", "/queues/ and its name"),
        (DIRECT, "reserves"),
        ("amq.", "reserves"),
        ("amq.rabbitmq.trace", "reserves"),
        ("amq.gen-short", "reserves"),
        ("amq.rabbitmq.reply-to.AAAA.BBBB", "direct reply-to"),
        ("amq.rabbitmq.reply-to.", "direct reply-to"),
        ("amq.rabbitmq.reply-to...", "direct reply-to"),
        (address() + ".", "direct reply-to"),
        (address()[:-1], "direct reply-to"),
        (address(b"other@1"), "direct reply-to"),
        (address(b"reply@"), "direct reply-to"),
        (address(b"reply@x"), "direct reply-to"),
        (address(b"reply@01"), "direct reply-to"),
        (address(b"reply@1234567890"), "direct reply-to"),
        (address(length=6), "direct reply-to"),
        (address(length=255), "direct reply-to"),
        (address(rest=11), "direct reply-to"),
        (address(rest=13), "direct reply-to"),
        (address(head=b"\x83hw"), "direct reply-to"),
        (address().replace(b64encode(bytes(3)).decode(), b64encode(b"\xff" * 3).decode(), 1), "direct reply-to"),
        (address().replace(KEY, "QQ=="), "direct reply-to"),
        (address().replace(".rabbitmq", ".Rabbitmq"), "reserves"),
    ],
)
def test_what_it_cannot_is_refused_with_a_sentence(reply_to: str, why: str) -> None:
    assert why in (problem_of(reply_to) or "")


@pytest.mark.parametrize("written", WRITTEN_BY_RABBITMQ)
def test_no_change_of_one_byte_lets_another_form_through(written: str) -> None:
    """A changed address is refused, or it still has the form of the original: the same node prefix, lengths and parts."""
    for at in range(len(DIRECT) + 1, len(written)):
        for other in ("", ".", "A", "=", "%", "ü"):
            changed = written[:at] + other + written[at + 1 :]
            if problem_of(changed) is None:
                assert len(changed) == len(written)
                assert changed.count(".") == written.count(".")


def test_random_bytes_are_no_process_id() -> None:
    assert not any(is_direct(f"{DIRECT}.{b64encode(os.urandom(31)).decode()}.{KEY}") for _ in range(1_000))


def of_process(id_: int, serial: int = 0, *, node: bytes = b"reply@1") -> str:
    process_id = b"\x83Xw" + bytes([len(node)]) + node + struct.pack(">III", id_, serial, 7)
    return f"{DIRECT}.{b64encode(process_id).decode()}.{KEY}"


def test_addresses_of_one_node_are_of_one_kind_unless_the_number_is_large() -> None:
    small = {kind_of(of_process(id_, serial)) for id_ in (0, 2**15 - 1) for serial in (0, 2**13 - 1)}
    large = {kind_of(of_process(*numbers)) for numbers in ((2**15, 0), (2**28 - 1, 0), (0, 2**13), (0, 2**32 - 1))}
    assert len(small) == len(large) == 1
    kinds = small | large | {kind_of(of_process(0, node=b"reply@2"))}
    assert (len(kinds), None in kinds) == (3, False)
    assert [kind_of(text) for text in ("billing.answers", DIRECT, f"{DIRECT}.AAAA.BBBB", "")] == [None] * 4


@pytest.mark.parametrize(
    ("address", "queue"),
    [
        ("billing.answers", "billing.answers"),
        ("/queues/billing.answers", "billing.answers"),
        ("/queues/my%20answers%2F2026", "my answers/2026"),
        ("/queues/caf%C3%A9", "café"),
    ],
)
def test_addresses_of_rabbitmq_4_are_names_of_queues(address: str, queue: str) -> None:
    assert (problem_of(address), queue_of(address)) == (None, queue)
