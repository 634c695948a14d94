"""The patterns say what the table says, and no name of a sender reaches what is ours."""

import re

import pytest

from deploy.permissions.broker import (
    AUDIT,
    SETUP,
    NameRefusedError,
    Permission,
    broker_users,
    commands,
    definitions,
)
from shared.messaging.topology import (
    DEFAULT_EXCHANGE,
    EXCHANGES,
    FORMER_EXCHANGES,
    PUBLIC_EXCHANGES,
    QUEUES,
    is_of_services,
)

PERMISSIONS: tuple[Permission, ...] = ("configure", "write", "read")
USERS = {user.name: user for user in broker_users(senders=("shop", "both"), listeners=("crm", "both"))}
OURS = [DEFAULT_EXCHANGE, *(exchange.name for exchange in EXCHANGES), *(queue.name for queue in QUEUES)]
NAMES = [
    *OURS,
    *(name.replace(".", "-") for name in OURS),
    *(f"{name}{suffix}" for name in (*OURS, *USERS) for suffix in (".x", "x", ".")),
    *(f"x{name}" for name in OURS),
    "amq.gen-Xa2",
]


@pytest.mark.parametrize("user", USERS.values(), ids=lambda user: user.name)
@pytest.mark.parametrize("permission", PERMISSIONS)
def test_the_pattern_means_exactly_the_names(user, permission: Permission) -> None:  # type: ignore[no-untyped-def]
    matched = {name for name in NAMES if re.search(user.pattern(permission), name)}
    assert matched == {name for name in NAMES if user.may(permission, name)}


def test_services_write_what_they_say_and_read_their_queues() -> None:
    found = {
        name: (sorted(user.write), sorted(user.read)) for name, user in USERS.items() if name in ("saga", "invoice")
    }
    assert found["saga"] == (
        ["dead-letters.direct", "operations.heartbeats", "settlement.commands", "staff.reports"],
        ["saga.events"],
    )
    writes, reads = found["invoice"]
    assert {"amq.default", "dead-letters.direct", "invoice.events", "invoice.events.own"} <= set(writes)
    assert not {name for name in writes if name.startswith(("payment", "settlement", "invoice.commands"))}
    assert {name.partition(".")[0] for name in reads} == {"invoice"}


def test_only_the_set_up_configures_what_is_ours() -> None:
    assert [name for name, user in USERS.items() if user.configure] == [SETUP]


def test_the_set_up_and_the_audit_cannot_reach_a_queue_by_its_name() -> None:
    assert not any(USERS[name].may("write", DEFAULT_EXCHANGE) for name in (SETUP, AUDIT))


def test_each_queue_is_read_by_one_service() -> None:
    services = [user for name, user in USERS.items() if name in ("invoice", "payment_gateway", "saga", "staff")]
    assert {queue.name: sum(user.may("read", queue.name) for user in services) for queue in QUEUES} == {
        queue.name: 1 for queue in QUEUES
    }


def test_a_sender_writes_commands_only_and_a_listener_nothing() -> None:
    assert {name: sorted(USERS[name].write) for name in ("shop", "crm", "both")} == {
        "shop": ["invoice.commands.entry"],
        "crm": [],
        "both": ["invoice.commands.entry"],
    }
    topics = sorted(exchange.name for exchange in EXCHANGES if exchange.type == "topic")
    assert {name: sorted(USERS[name].read) for name in ("shop", "crm", "both")} == {
        "shop": [],
        "crm": topics,
        "both": topics,
    }


def _reached(exchanges: set[str]) -> set[str]:
    """The queues and exchanges of ours that get what is published to one of these exchanges."""
    to = [(binding.exchange, queue.name) for queue in QUEUES for binding in queue.bindings]
    to += [(binding.exchange, exchange.name) for exchange in EXCHANGES for binding in exchange.bindings]
    to += [(exchange.name, exchange.alternate) for exchange in EXCHANGES if exchange.alternate is not None]
    to += [(former.name, entry) for former, entry in FORMER_EXCHANGES.items()]
    found = set(exchanges)
    while more := {target for source, target in to if source in found} - found:
        found |= more
    return found


def test_what_others_may_write_is_looked_through_for_card_data() -> None:
    """Dead letters are theirs, too: the broker takes them over from any queue."""
    outside = [
        user
        for user in broker_users(senders=("shop", "both"), listeners=("crm", "both"), upgrading=True)
        if user.name in ("shop", "crm", "both")
    ]
    queues = {queue.name for queue in QUEUES}
    reached = _reached({exchange for user in outside for exchange in user.write}) & queues
    assert reached == {"invoice.commands", "invoice.commands.suspect"}
    dead_letters = {"dead-letters", "dead-letters.unreadable"}
    assert {name for name in queues if not is_of_services(name)} == reached | dead_letters
    assert not is_of_services("a.queue.of.others")


def test_nobody_but_the_set_up_may_write_to_a_queue() -> None:
    """Who may write to a queue's name may bind the queue to an exchange of its own, and unbind it from one that it may read."""
    queues = {queue.name for queue in QUEUES}
    assert {name: found for name, user in USERS.items() if (found := queues & user.write)} == {SETUP: queues}


def test_few_may_have_one_exchange_of_ours_pass_on_what_another_gets() -> None:
    """To bind an exchange is to write to it and to read the other. Who reads a queue reads the exchange of that name, too."""
    exchanges = [exchange.name for exchange in (*EXCHANGES, *FORMER_EXCHANGES)]
    found = {
        (name, to, source)
        for name, user in USERS.items()
        for to in exchanges
        for source in exchanges
        if name != SETUP and user.may("write", to) and user.may("read", source)
    }
    assert found == {
        *(("both", "invoice.commands.entry", topic) for topic in PUBLIC_EXCHANGES),
        *(("invoice", to, "invoice.commands") for to in USERS["invoice"].write & {*exchanges}),
        *(
            ("staff", to, source)
            for to in (
                "settlement.commands",
                "dead-letters.direct",
                "operations.heartbeats",
                "staff.events",
                "staff.events.own",
                "staff.reports",
            )
            for source in ("dead-letters", "dead-letters.unreadable")
        ),
    }


def test_only_during_an_upgrade_may_one_write_where_the_build_before_does() -> None:
    after = broker_users(("shop",), ("crm",))
    during = broker_users(("shop",), ("crm",), upgrading=True)
    more = {one.name: one.write - other.write for one, other in zip(during, after, strict=True)}
    assert {name: names for name, names in more.items() if names} == {
        "invoice": {"dead-letters", "invoice.events.direct"},
        "payment_gateway": {"dead-letters", "payment.events.direct"},
        "saga": {"dead-letters"},
        "staff": {"dead-letters", "staff.events.direct"},
        "shop": {"invoice.commands"},
    }
    assert [(one.configure, one.read) for one in during] == [(one.configure, one.read) for one in after]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("payment", "it would own payment.events"),
        ("settlement", "it would own settlement.commands"),
        ("invoice", "it would own invoice.commands"),
        ("staff", "it would own staff.cases"),
        ("amq", "it has a meaning already"),
        ("remit_setup", "it has a meaning already"),
        ("remit_purge", "it has a meaning already"),
        ("a.b", "and no dot"),
        ("", "use 1 to 64 letters"),
        ("x" * 65, "use 1 to 64 letters"),
        ("shop|.*", "use 1 to 64 letters"),
        ("sh\nop", "use 1 to 64 letters"),
        ("-p", "use 1 to 64 letters"),
    ],
)
def test_a_name_whose_prefix_reaches_ours_or_that_is_a_pattern_is_refused(name: str, why: str) -> None:
    with pytest.raises(NameRefusedError, match=f"cannot name a sender or listener: .*{re.escape(why)}"):
        broker_users(senders=(name,))
    with pytest.raises(NameRefusedError):
        broker_users(listeners=(name,))


def test_users_are_imported_only_with_passwords_and_as_hashes() -> None:
    users = tuple(USERS.values())
    assert "users" not in definitions(users, "/")
    made = definitions(users, "/", {name: f"secret of {name}" for name in USERS})
    assert {user["name"]: user["tags"] for user in made["users"]} == dict.fromkeys(USERS, "")
    assert "secret" not in str(made)


def test_the_script_fits_into_80_columns_and_has_no_password() -> None:
    script = commands(tuple(USERS.values()), "/")
    assert max(map(len, script.splitlines())) <= 80
    assert all(f"|| add {name}\n" in script for name in USERS)
