"""What is stuck, and the verdict of the overview."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.staff.story import plain
from services.staff.stuck import (
    _LOOKS,
    SERVICES,
    WATCHED,
    InstanceSeen,
    PendingPayments,
    ProposalSeen,
    QueueSeen,
    RunSeen,
    Stuck,
    WatchedWork,
    missing_services,
    stuck,
)
from services.staff.verdict import CaseSeen, GroupSeen, OverviewSeen, StoppedRun, SumInDoubt, verdict_of
from shared.records import replace

NOW = datetime(2026, 11, 28, 2, 14, 7, tzinfo=UTC)
HEALTHY = InstanceSeen("host:1:a", "saga", "1", {}, 0.1, 0, 0, NOW - timedelta(seconds=4), 4.0)


def instance(**changes: Any) -> InstanceSeen:
    age_s = changes.get("age_s", 4.0)
    return replace(HEALTHY, heard_at=NOW - timedelta(seconds=age_s), **changes)


def keys(watched: WatchedWork) -> list[str]:
    return [one.key for one in stuck(watched)]


def everybody() -> tuple[InstanceSeen, ...]:
    return tuple(instance(service=name, instance=name) for name in SERVICES)


def test_nothing_is_stuck_where_all_goes_on() -> None:
    queues = tuple(QueueSeen(name, 3, 1, 5.0, 4.0) for name in ("saga.events", "invoice.commands"))
    assert stuck(WatchedWork(NOW, everybody(), queues)) == []


@pytest.mark.parametrize(
    ("watched", "key", "since_s"),
    [
        (WatchedWork(NOW, own_outbox_s=31.0), "outbox:staff", 31),
        (WatchedWork(NOW, (instance(outbox_oldest_s=40.0),)), "outbox:saga", 40),
        (WatchedWork(NOW, pending=PendingPayments(2, NOW - timedelta(seconds=90), UUID(int=1))), "pending", 90),
        (WatchedWork(NOW, (instance(overdue=2),)), "overdue:saga", None),
        (WatchedWork(NOW, (instance(service="payment_gateway", overdue=2),)), "overdue:payment_gateway", None),
        (WatchedWork(NOW, (instance(age_s=31.0, leases_held=1),)), "lease:host:1:a", 31),
        (WatchedWork(NOW, (instance(age_s=31.0),)), "instance:host:1:a", 31),
        (WatchedWork(NOW, queues=(QueueSeen("saga.events", 1, 0, 20.0, 4.0),)), "queue:saga.events", 20),
        (WatchedWork(NOW, queues=(QueueSeen("saga.events", 500, 2, 61.0, 4.0),)), "queue:saga.events", 61),
        (WatchedWork(NOW, queues=(QueueSeen("saga.events", None, 0, 0.0, 4.0),)), "queue:saga.events", None),
        (WatchedWork(NOW, runs=(RunSeen(119, NOW - timedelta(seconds=61)),)), "run:119", 61),
        (
            WatchedWork(
                NOW, proposals=(ProposalSeen(UUID(int=1), "INV-1", "ben", NOW - timedelta(minutes=61), "captured"),)
            ),
            f"proposal:{UUID(int=1)}",
            3660,
        ),
    ],
)
def test_what_does_not_go_on_is_named_with_what_it_means(watched: WatchedWork, key: str, since_s: float | None) -> None:
    (found,) = stuck(watched)
    assert found.key == key
    assert found.since == (None if since_s is None else NOW - timedelta(seconds=since_s))
    assert plain(found.means)
    assert found.todo.endswith(".")
    assert found.how_much
    assert len(_LOOKS) == len(WATCHED)


@pytest.mark.parametrize(
    "watched",
    [
        WatchedWork(NOW, own_outbox_s=29.0),
        WatchedWork(NOW, (instance(age_s=29.0, leases_held=1),)),
        WatchedWork(NOW, (instance(age_s=500.0, not_ready={"started": "stopping"}),)),
        WatchedWork(NOW, (instance(age_s=500.0, not_ready={"started": "stopping"}, outbox_oldest_s=90.0, overdue=2),)),
        WatchedWork(NOW, queues=(QueueSeen("saga.events", 500, 2, 59.0, 4.0),)),
        WatchedWork(NOW, queues=(QueueSeen("saga.events", 500, 0, 99.0, 61.0),)),
        WatchedWork(NOW, queues=(QueueSeen("dead-letters.unreadable", 5, 0, 99.0, 4.0),)),
        WatchedWork(NOW, runs=(RunSeen(119, NOW - timedelta(seconds=59)),)),
        WatchedWork(
            NOW, proposals=(ProposalSeen(UUID(int=1), "INV-1", "ben", NOW - timedelta(minutes=59), "captured"),)
        ),
    ],
)
def test_what_is_young_or_was_stopped_is_not_stuck(watched: WatchedWork) -> None:
    assert stuck(watched) == []


def test_the_longest_comes_first_and_what_has_no_moment_last() -> None:
    watched = WatchedWork(
        NOW, (instance(overdue=1),), own_outbox_s=50.0, pending=PendingPayments(1, NOW - timedelta(seconds=90))
    )
    assert keys(watched) == ["pending", "outbox:staff", "overdue:saga"]


def test_a_service_without_an_instance_is_missed() -> None:
    assert missing_services(WatchedWork(NOW, everybody())) == []
    gone = tuple(replace(one, age_s=31.0) if one.service == "invoice" else one for one in everybody())
    assert missing_services(WatchedWork(NOW, gone)) == ["invoice"]
    left = tuple(
        replace(one, not_ready={"started": "stopping"}) if one.service == "invoice" else one for one in everybody()
    )
    assert missing_services(WatchedWork(NOW, left)) == ["invoice"]
    assert missing_services(WatchedWork(NOW, hears_instances=False)) == [], "nobody can say without heartbeats"


# -- the verdict -------------------------------------------------------------------------------------------------------------------------


def case(number: int = 1, status: str = "needs_decision", minutes: float = 5, **more: Any) -> CaseSeen:
    seen = CaseSeen(UUID(int=number), f"INV-{number}", status, "silent", 1_000, "EUR", NOW - timedelta(minutes=minutes))
    return replace(seen, **more)


ONE_STUCK = Stuck("pending", "1 payment waits", "1 payment", ("It may be charged or not.",), "Look.", NOW)
GROUP = GroupSeen("a1b2c3d4", "remit.invoice.PayInvoice.v1", "invoice.commands", "handler_failed", "TypeError", 3, NOW)


def test_all_quiet() -> None:
    verdict = verdict_of(OverviewSeen(NOW))
    assert verdict.level == "done"
    assert verdict.title == "All quiet: no money is in doubt, and nothing waits for a person"
    assert verdict.todo == ()


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (OverviewSeen(NOW, (case(status="in_doubt", minutes=14),)), "look"),
        (OverviewSeen(NOW, (case(status="in_doubt", minutes=16),)), "act"),
        (OverviewSeen(NOW, (case(minutes=0),)), "act"),
        (OverviewSeen(NOW, (case(status="refund_failed", minutes=0),)), "act"),
        (OverviewSeen(NOW, (case(status="refund_in_doubt", minutes=14),)), "look"),
        (OverviewSeen(NOW, (case(status="captured", contradicted_at=NOW, minutes=999),)), "look"),
        (OverviewSeen(NOW, missing=("saga",)), "act"),
        (OverviewSeen(NOW, is_broken=True), "act"),
        (OverviewSeen(NOW, stopped_runs=(StoppedRun(1, NOW),)), "look"),
        (OverviewSeen(NOW, groups=(GROUP,)), "look"),
        (OverviewSeen(NOW, stuck=(ONE_STUCK,)), "look"),
        (OverviewSeen(NOW, proposals=(ProposalSeen(UUID(int=1), "INV-1", "ben", NOW, "captured"),)), "look"),
    ],
)
def test_the_level(seen: OverviewSeen, level: str) -> None:
    verdict = verdict_of(seen)
    assert verdict.level == level
    assert not verdict.title.startswith("All quiet")


def test_money_is_added_up_by_currency_only() -> None:
    cases = (
        case(1),
        case(2, amount_minor=500),
        case(3, currency="USD", amount_minor=90),
        case(4, amount_minor=None, currency=None),
        case(5, status="captured", contradicted_at=NOW),
    )
    verdict = verdict_of(OverviewSeen(NOW, cases))
    assert verdict.sums == (SumInDoubt("EUR", 1_500, 2), SumInDoubt("USD", 90, 1))
    assert verdict.unknown == 1
    assert verdict.title == "Money is in doubt: nobody knows whether 4 cards were charged"


@pytest.mark.parametrize(
    ("seen", "title"),
    [
        (OverviewSeen(NOW, (case(),)), "Money is in doubt: nobody knows whether 1 card was charged"),
        (
            OverviewSeen(NOW, (case(status="refund_failed"),)),
            "Money is in doubt: 1 refund did not go through, or nobody knows",
        ),
        (
            OverviewSeen(NOW, missing=("payment_gateway", "saga")),
            "No money is in doubt, but payment gateway and saga do not run",
        ),
        (OverviewSeen(NOW, is_broken=True), "No money is in doubt, but the activity log is not as it was"),
        (OverviewSeen(NOW, groups=(GROUP,)), "No money is in doubt; 3 failed messages wait"),
    ],
)
def test_the_title_is_about_money_first(seen: OverviewSeen, title: str) -> None:
    assert verdict_of(seen).title == title


def test_failed_payments_are_told_with_their_money() -> None:
    groups = (
        replace(GROUP, charges=2, sums=(("EUR", 3_000), ("USD", 50))),
        replace(GROUP, grp="b", charges=1, sums=(("EUR", 500),)),
    )
    (todo,) = verdict_of(OverviewSeen(NOW, groups=groups)).todo
    assert plain(todo.why).endswith("3 are payments, 3500 EUR and 50 USD: nothing was charged.")
    (todo,) = verdict_of(OverviewSeen(NOW, groups=(GROUP,))).todo
    assert plain(todo.why).endswith("Nothing of them was done.")


def test_the_order_of_what_to_do() -> None:
    seen = OverviewSeen(
        NOW,
        cases=(
            case(1, minutes=5),
            case(2, minutes=50),
            case(3, status="refund_failed"),
            case(4, status="captured", contradicted_at=NOW),
            case(5, status="in_doubt"),
            case(6, minutes=90),
            case(7, on_its_way=True, minutes=99),
            case(8, minutes=2),
        ),
        proposed=frozenset({UUID(int=6), UUID(int=8)}),
        proposals=(ProposalSeen(UUID(int=6), "INV-6", "ben", NOW, "not_charged"),),
        groups=(GROUP,),
        stopped_runs=(StoppedRun(119, NOW),),
        stuck=(ONE_STUCK,),
    )
    verdict = verdict_of(seen)
    assert [(todo.what, todo.place.removeprefix("/cases/")[-2:]) for todo in verdict.todo] == [
        ("Decide: was this card charged?", "02"),
        ("Decide: was this card charged?", "01"),
        ("Agree or not, as second person.", "06"),
        ("A refund was refused.", "03"),
        ("The gateway contradicts a decision.", "04"),
        ("The replay R-119 stopped by itself.", "19"),
        ("3 failed messages wait.", "rs"),
        ("1 payment waits.", "ck"),
    ]
    assert verdict.waiting == 6
    assert verdict.oldest_at == NOW - timedelta(minutes=99)


def test_the_list_has_a_bound_and_says_what_it_leaves_out() -> None:
    verdict = verdict_of(OverviewSeen(NOW, tuple(case(number, minutes=number) for number in range(25))))
    assert (len(verdict.todo), verdict.left_out) == (20, 5)
