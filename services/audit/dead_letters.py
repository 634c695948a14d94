"""Checks the dead letters, and whether a healthy message is among them.

The reader below decides what is healthy. It is stricter than the services' own readers, so that it never calls a message healthy that they
may reject. If a healthy message is an open dead letter, the fault is not the message's: an outage, a delivery limit of the broker, or a bug
caused it. Settled dead letters are not read: a person has looked at them.
"""

import json
from collections.abc import Iterator
from typing import Any, get_args
from uuid import UUID

from pydantic import ValidationError

from services.audit.align import StoredRow
from services.audit.finding import Tally
from services.audit.routes import queues_for
from services.audit.stores import Stores
from shared.card_data.scan import has_card_data
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.contracts.times import read_time
from shared.messaging.topology import COMMANDS, RoutingSuffix, routing_key

_DEAD_LETTERS = """
    SELECT id, queue, origin, reason, error_type, tries, message_id, event_id, content_type, status, settled_by, settled_at,
           replays, seen, withheld, body_bytes, outcome,
           first_seen > last_seen OR last_seen > now() + interval '1 day' AS is_misdated,
           replays > (SELECT count(*) FROM journal j WHERE j.subject = dead_letters.id
                      AND j.action IN ('replay', 'edit')) AS is_overcounted,
           invoice_id, payment_id, amount_minor, currency, may_charge,
           CASE WHEN status = 'open' THEN body END AS body
    FROM dead_letters ORDER BY id"""
_RECORDED_TWICE = """
    SELECT min(id::text) AS id, count(*) AS records FROM dead_letters WHERE message_id IS NOT NULL AND body IS NOT NULL
    GROUP BY queue, message_id, sender, sha256(body),
             (SELECT jsonb_object_agg(key, value) FROM jsonb_each(CASE jsonb_typeof(headers) WHEN 'object' THEN headers END)
              WHERE key ~ '^(ce[-_]|cloudEvents)')
    HAVING count(*) > 1 ORDER BY 1"""

_MISCOUNTED = """
    WITH counted AS (
        SELECT grp, queue, type, reason, error_type, count(*) FILTER (WHERE status = 'open') AS open,
               count(*) FILTER (WHERE status = 'replayed') AS replayed, count(*) FILTER (WHERE status = 'discarded') AS discarded
        FROM dead_letters WHERE grp IS NOT NULL GROUP BY grp, queue, type, reason, error_type
    )
    SELECT coalesce(g.grp, c.grp) AS grp FROM counted c FULL JOIN dead_letter_groups g ON g.grp = c.grp
    WHERE (g.queue, g.type, g.reason, g.error_type, g.open, g.replayed, g.discarded)
        IS DISTINCT FROM (c.queue, c.type, c.reason, c.error_type, c.open, c.replayed, c.discarded) ORDER BY 1"""

_REOPENED = """
    SELECT d.id, j.action FROM dead_letters d CROSS JOIN LATERAL (
        SELECT action FROM journal WHERE subject = d.id AND action IN ('replay', 'discard', 'edit', 'undo')
        ORDER BY position DESC LIMIT 1) j
    WHERE d.status = 'open' AND j.action IN ('discard', 'edit') ORDER BY d.id"""
"""What a person gave up stays so, unless somebody undoes that: a duplicate is only counted."""

_REMAINS = frozenset({"unstorable", "unreadable"})
"""Reasons for which nothing of the message could be read, not even the number of its deliveries."""
_OF_THE_MESSAGE = frozenset({"PaymentIdReusedError"})
"""Errors of a handler that are the message's fault (the same payment id with other parameters)."""
_OF_THE_ENVELOPE = frozenset(
    {
        "clear_card_number",
        "cvv_not_accepted",
        "headers_too_large",
        "moved_back",
        "unsupported_content_type",
        "unsupported_content_encoding",
    }
)
"""Reasons that may lie in the message's properties or headers, which were redacted or taken off before they were stored."""
_SETTLED = frozenset({"replayed", "discarded"})

BODY_BYTES_MAX = 64 * 1024
BRACKETS_MAX = 32
COMMAS_MAX = 900
"""Together with the brackets fewer than the members and elements that a service takes."""
DIGITS_MAX = 18
ID_LENGTH_MAX = 36


async def dead_letters_explained(counted: Tally, stores: Stores) -> None:
    """Every dead letter has one record with reason, tries and status, and no healthy message is among them."""
    if not stores.has("staff"):
        return
    staff = stores.databases["staff"]
    async for dead_letter in staff.rows(_DEAD_LETTERS):
        counted.look()
        _check(counted, dead_letter)
    async for row in staff.rows(_RECORDED_TWICE):
        counted.breach(row["id"], f"the same dead letter has {row['records']} records")
    async for row in staff.rows(_REOPENED):
        counted.breach(row["id"], f"it is open, and the last that somebody did with it is {row['action']}")
    async for row in staff.rows(_MISCOUNTED):
        counted.breach(row["grp"], "the group of dead letters counts others than there are")


def _check(counted: Tally, dead_letter: StoredRow) -> None:
    is_settled = dead_letter["status"] in _SETTLED
    if not is_settled and dead_letter["reason"] in {"", "unknown"}:
        counted.breach(dead_letter["id"], "it has no reason")
    if dead_letter["tries"] < 1 and dead_letter["withheld"] not in _REMAINS and not is_settled:
        counted.breach(dead_letter["id"], f"{dead_letter['reason']}, and no record of a try")
    if not is_settled and dead_letter["withheld"] == "erased":
        counted.breach(dead_letter["id"], "it is open, and its body was erased as if somebody had settled it")
    if is_settled and (dead_letter["settled_by"] is None or dead_letter["settled_at"] is None):
        counted.breach(dead_letter["id"], f"{dead_letter['status']}, and nobody is recorded for it")
    for why in (*_miscounted(dead_letter), *_shown_otherwise(dead_letter)):
        counted.breach(dead_letter["id"], why)
    if dead_letter["body"] is not None and (type_ := healthy(dead_letter)) is not None:
        error = f" ({dead_letter['error_type']})" if dead_letter["error_type"] else ""
        counted.breach(
            dead_letter["id"],
            f"a healthy {type_} was dead-lettered on {dead_letter['queue']}: {dead_letter['reason']}{error}",
        )


def _miscounted(dead_letter: StoredRow) -> Iterator[str]:
    """When and how often it came, and was sent again."""
    if dead_letter["seen"] < 1:
        yield "it has a record, and never came"
    if dead_letter["is_misdated"]:
        yield "it came last before it came first, or at a time that is to come"
    if dead_letter["is_overcounted"]:
        yield f"it was replayed {dead_letter['replays']} times, and the journal knows of fewer"
    if dead_letter["outcome"] is not None and not dead_letter["replays"]:
        yield f"a replay of it was {dead_letter['outcome']}, and there was none"


_SHOWN = ("invoice_id", "payment_id", "amount_minor", "currency")
_CHARGES = {COMMANDS: "PayInvoice", "payment_gateway.requests": "InvoicePaymentRequested"}
"""The messages that charge a card, by the queue on which they do."""


def _shown_otherwise(dead_letter: StoredRow) -> Iterator[str]:
    """What is shown of the body of an open dead letter is in it. What could not be read is not shown."""
    body: bytes | None = dead_letter["body"]
    if body is not None and len(body) != dead_letter["body_bytes"]:
        yield f"it is shown with {dead_letter['body_bytes']} bytes, and its body has {len(body)}"
    event = None if body is None else _read(body, dead_letter["content_type"])
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        return
    ids, data = {str(event.get("id")).lower(), str(dead_letter["message_id"]).lower()}, event["data"]
    if dead_letter["event_id"] is not None and str(dead_letter["event_id"]) not in ids:
        yield f"it is shown as {dead_letter['event_id']}, and its body says {event.get('id')}"
    for name in _SHOWN:
        if dead_letter[name] is not None and _plain(dead_letter[name]) != _plain(data.get(name)):
            yield f"its {name} is shown as {dead_letter[name]}, and its body says {data.get(name)}"
    if dead_letter["may_charge"] is False and _would_charge(dead_letter, str(event.get("type"))):
        yield "it is shown as one that charges nothing, and it would charge a card"


def _plain(value: Any) -> str:
    """The same text for all ways to write an id."""
    return str(value).lower().replace("-", "")


def _would_charge(dead_letter: StoredRow, type_: str) -> bool:
    """Whether a replay would charge a card: of what was read, or of a later version, which nobody here can read."""
    version = type_.rpartition(".v")[2]
    is_later = type_ not in BY_WIRE_NAME and version.isdecimal() and int(version) > 1
    return _CHARGES.get(dead_letter["queue"], "?") in type_.split(".") and (
        dead_letter["payment_id"] is not None or is_later
    )


def healthy(dead_letter: StoredRow) -> str | None:
    """The type of a message that its queue should have handled; None if anything about it may be wrong."""
    if dead_letter["error_type"] in _OF_THE_MESSAGE or dead_letter["reason"] in _OF_THE_ENVELOPE:
        return None
    type_ = _reads_well(dead_letter["body"], dead_letter["content_type"])
    return type_ if type_ is not None and _is_expected(type_, dead_letter["queue"]) else None


def _is_expected(type_: str, queue: str) -> bool:
    if queue == COMMANDS:
        return type_ in PUBLIC_COMMANDS
    exchange = BY_WIRE_NAME[type_].exchange
    return any(
        queue in queues_for(exchange, routing_key(type_, routing_suffix)) for routing_suffix in get_args(RoutingSuffix)
    )


class _DoubtfulError(Exception):
    """A service may reject this part of the message."""


def _reads_well(body: bytes, content_type: str | None) -> str | None:
    """The type of a CloudEvent in structured mode that no service has a reason to reject; None for any other message."""
    event = None if has_card_data(body) else _read(body, content_type)
    return None if event is None else _type_of(event)


def _read(body: bytes, content_type: str | None) -> Any:
    """A CloudEvent in structured mode whose JSON no service has a reason to reject; None for any other message."""
    if content_type != "application/cloudevents+json" or len(body) > BODY_BYTES_MAX or b"\\u" in body:
        return None
    if body.count(b"{") + body.count(b"[") > BRACKETS_MAX or body.count(b",") > COMMAS_MAX:
        return None
    try:
        return json.loads(
            body.decode(),
            object_pairs_hook=_members,
            parse_int=_integer,
            parse_float=_doubtful,
            parse_constant=_doubtful,
        )
    except (ValueError, RecursionError, _DoubtfulError):
        return None


def _type_of(event: Any) -> str | None:
    try:
        type_, data = event["type"], event["data"]
        is_uuid = (
            str(UUID(event["id"])) == event["id"].lower()
        )  # Python's own reader also takes underscores and the digits of any alphabet
        BY_WIRE_NAME[type_].model_validate(data)
        is_plain = (
            is_uuid
            and event["specversion"] == "1.0"
            and isinstance(event["source"], str)
            and event["source"] != ""
            and _is_plain(event.get("time"), event.get("correlationid"))
        )
    except (TypeError, KeyError, ValueError, AttributeError, ValidationError):
        return None
    return str(type_) if is_plain and isinstance(data, dict) else None


def _is_plain(time: Any, correlation: Any) -> bool:
    if time is not None:
        read_time(time)
    return correlation is None or (
        correlation.isascii() and correlation.isprintable() and 0 < len(correlation) <= ID_LENGTH_MAX
    )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DoubtfulError
    return members


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise _DoubtfulError
    return int(digits)


def _doubtful(_: str) -> None:
    raise _DoubtfulError
