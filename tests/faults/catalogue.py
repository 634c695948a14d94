"""The catalogue of faults, row by row, with the trials for each fault. A test compares it with the trials that exist.

A fault without a trial has the reason instead, and the place where it is tested.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A fault without a trial: why, or which tests cover it."""

    why: str


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """A point on the way of a payment, and its faults by name: patterns of trials, separated by commas."""

    point: str
    faults: Mapping[str, str | Elsewhere]


ROWS: Final[dict[int, CatalogueRow]] = {
    1: CatalogueRow(
        "sender → exchange",
        {
            "confirm lost": "sender/confirm_lost*",
            "returned": "sender/returned",
            "broker blocked": "servers/broker:*_alarm",
            "oversized": "sender/oversized",
            "wrong user": "sender/wrong_user",
        },
    ),
    2: CatalogueRow(
        "the broker holds it",
        {
            "kill -9, restart": "servers/broker:killed,servers/both:killed",
            "memory or disk alarm": "servers/broker:*_alarm",
            "queue deleted": "servers/*:deleted",
            "a node of a cluster lost": "cluster/*",
        },
    ),
    3: CatalogueRow(
        "delivered, before the transaction",
        {
            "crash": "crash/shell.*before_commit:*:exit,servers/*:killed",
            "stopped longer than the heartbeat": "crash/shell.*before_commit:*:stop",
            "reconnect with a full buffer": "network/*.broker:reset",
        },
    ),
    4: CatalogueRow(
        "inbox + events + outbox",
        {
            "version conflict": "fleet/?-of-each",
            "deadlock": "stores/*:deadlock",
            "PostgreSQL kill -9": "servers/database:killed",
            "full disk": "servers/*:full_disk,servers/database:full_wal",
            "pool exhausted": "stores/*:locked,network/*.database:black_hole_*",
            "the reply to a commit lost": "network/*.database:commit_reply_lost*",
        },
    ),
    5: CatalogueRow(
        "committed, before the ack",
        {"crash": "crash/shell.*after_commit:*:exit,crash/shell.before_ack:*", "ack lost": "network/*.broker:ack_lost"},
    ),
    6: CatalogueRow(
        "outbox",
        {
            "crash before or after the confirm": "crash/publisher.*,crash/relay.*",
            "crash before the delete": "crash/outbox.before_delete:*",
            "confirm lost": "network/*.broker:confirm_lost*",
            "two publishers": "fleet/?-of-each",
            "a row committed late": "crash/shell.before_commit:*:stop",
            "publish refused (full queue)": "servers/*:full",
            "a full queue of others": "crash/relay.*_public:*",
        },
    ),
    7: CatalogueRow("request → payment row", {"duplicate on two instances at once": "fleet/?-of-each"}),
    8: CatalogueRow(
        "prepared, id not recorded; recorded, not confirmed",
        {
            "crash": "crash/charging.*_prepare:*:exit,crash/charging.*_execute:*:exit",
            "zombie": "crash/charging.*_prepare:*:stop,crash/charging.*_execute:*:stop",
        },
    ),
    9: CatalogueRow(
        "HTTP in flight",
        {
            "every behaviour of the gateway": "gateway/every-behaviour*",
            "cut, silent, late, dripping, refused": "network/payment_gateway.gateway:*",
            "silent for hours (for longer than the ladder)": "gateway/silent-for-good",
            "refuses the key, or is not there (401, 404)": "gateway/key-rotated,gateway/wrong-url",
        },
    ),
    10: CatalogueRow(
        "answer known, not recorded",
        {
            "crash": "crash/charging.before_record*:*,crash/charging.after_execute:*",
            "PostgreSQL away for minutes": "servers/database:away",
            "lease lost, decision committed meanwhile": "planted/fencing-off:control",
        },
    ),
    11: CatalogueRow(
        "saga",
        {
            "duplicate": "again/messages",
            "outcome before request, stale outcome": "order/saga.events:*",
            "two instances on one saga": "fleet/?-of-each",
            "deadline twice": "crash/saga.deadlines.*:stop",
            "clock off by an hour": "servers/*:clock_*",
            "restart mid-step": "crash/*:saga:exit",
        },
    ),
    12: CatalogueRow(
        "invoice ← outcome",
        {
            "duplicate": "again/messages,again/forgotten",
            "reorder": "order/invoice.settlement:*",
            "unknown invoice": Elsewhere(
                "tests/service/invoice: nobody may write there, which sender/wrong_user proves"
            ),
            "void at the same time": "crash/*",
        },
    ),
    13: CatalogueRow(
        "dead letters",
        {
            "replay twice": "people/replay:by-two",
            "replay while processing": "people/replay:beside-its-sender",
            "replay after a schema upgrade": "versions/replay-after-upgrade",
            "replay after the inbox's retention": "again/forgotten",
            "crash mid-replay": "crash/staff.replay.*",
        },
    ),
    14: CatalogueRow(
        "case in doubt",
        {
            "two people": "people/resolve:by-two",
            "person against poller": "people/resolve:while-asked",
            "late answer after a decision": "crash/charging.*_refund:*",
        },
    ),
    15: CatalogueRow("poison", {"every input of the corpus, on every queue": "poison/*"}),
    16: CatalogueRow(
        "fleet",
        {
            "rolling restarts under load": "fleet/rolling-restarts",
            "1 → n → 1 instances": "fleet/?-of-each",
            "old and new versions together": "versions/*",
        },
    ),
    17: CatalogueRow(
        "partitions",
        {
            "from the broker": "network/*.broker:black_hole_*,network/*.broker:refused",
            "from the database": "network/*.database:black_hole_*,network/*.database:refused",
            "from the gateway": "network/payment_gateway.gateway:black_hole_*,network/payment_gateway.gateway:refused",
        },
    ),
    18: CatalogueRow(
        "strangers at the broker",
        {
            "an answer's address that ends the connection": "hostile/address*",
            "what we publish ends it": "hostile/sent:*",
            "what we receive ends it": "hostile/received:*",
            "a forged death": "hostile/death:*",
            "somebody's full queue": "hostile/full:*",
            "somebody's costly binding": "hostile/costly:*",
            "bodies that cost too much": "hostile/bodies:*",
            "hostile texts": "hostile/texts",
            "a dead letter moved by hand": "hostile/moved",
            "another sender": "hostile/senders:*",
            "card data": "hostile/cards",
        },
    ),
    19: CatalogueRow(
        "after the outcome",
        {
            "disputes, refunds in the dashboard": "afterwards/contradicted*,afterwards/asked",
            "a capture of another amount": "afterwards/another-amount",
            "a capture of something cancelled": "afterwards/captured-after-cancel",
            "a refund that fails days later": "afterwards/refund-sent-back",
            "a wrong decision": "afterwards/decided-while-rotated,afterwards/reopened",
            "a restored database": "afterwards/forgotten",
        },
    ),
    20: CatalogueRow(
        "whoever watches",
        {
            "money and the gateway": "alerts/unanswered,alerts/refusing,alerts/limited,alerts/forged,alerts/contradicting",
            "messages": "alerts/*-listener,alerts/quarantined,alerts/dead-letters,alerts/stuck,alerts/alarm",
            "services": "alerts/away,alerts/desk-away,alerts/door-away,alerts/without-a-right,alerts/two-builds,alerts/changed-journal",
        },
    ),
    21: CatalogueRow(
        "the staff desk",
        {
            "killed in the middle of a run": "desk/run:*,crash/staff.run*",
            "a second click": "desk/click:*",
            "a clock that jumps": "desk/clock:*",
            "a replay whose queue is gone": "desk/queue:*",
            "the log changed by hand": "desk/log:*",
        },
    ),
}


def matching(patterns: str, names: Iterable[str]) -> list[str]:
    """The names that match one of the patterns."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns.split(","))]
