"""What is stuck, and the verdict of the overview."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.staff.runs import Halt
from services.staff.story import plain
from services.staff.stuck import (
    _LOOKS,
    SERVICES,
    InstanceSeen,
    PendingPayments,
    ProposalSeen,
    QueueSeen,
    RunSeen,
    Stuck,
    WatchedWork,
    missing_services,
    stuck,
    watched_in_words,
)
from services.staff.verdict import (
    ACT_AFTER,
    LINES_OF_A_KIND_MAX,
    CaseSeen,
    DoubtSeen,
    FailedSeen,
    OverviewSeen,
    ProposalsSeen,
    StoppedRun,
    SumInDoubt,
    verdict_of,
)
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
        (WatchedWork(NOW, pending=PendingPayments(9, NOW - timedelta(seconds=90), more=True)), "pending", 90),
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
    assert len(_LOOKS) == len(watched_in_words(60.0))


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


def proposal(number: int, by: str = "ben", minutes: float = 0) -> ProposalSeen:
    return ProposalSeen(UUID(int=number), f"INV-{number}", by, NOW - timedelta(minutes=minutes), "not_charged")


def doubt_of(one: CaseSeen, *, decided: bool = False, proposed: bool = False) -> DoubtSeen:
    """One open case, as the store counts it."""
    is_known = one.amount_minor is not None
    is_old = NOW - one.opened_at > ACT_AFTER and not decided and not proposed
    counts = [int(flag) for flag in (not is_known, decided, proposed, is_old)]
    return DoubtSeen(one.status, one.currency, 1, one.amount_minor or 0, counts[0], one.opened_at, *counts[1:])


def seen_of(
    *cases: CaseSeen, decided: Collection[int] = (), proposed: Collection[int] = (), **more: Any
) -> OverviewSeen:
    """What the store reads if there are these cases. A decision about some is on its way, or was proposed."""
    open_ones = [one for one in cases if one.contradicted_at is None]
    flags = {UUID(int=number): {"decided": True} for number in decided}
    flags |= {UUID(int=number): {"proposed": True} for number in proposed if number not in decided}
    doubts = tuple(doubt_of(one, **flags.get(one.payment_id, {})) for one in open_ones)
    left = tuple(one for one in cases if one.payment_id not in flags)
    return OverviewSeen(NOW, doubts, len(cases) - len(open_ones), left, **more)


ONE_STUCK = Stuck("pending", "1 payment waits", "1 payment", ("It may be charged or not.",), "Look.", NOW)
FAILED = FailedSeen(3, 1, NOW)


def test_all_quiet() -> None:
    verdict = verdict_of(OverviewSeen(NOW))
    assert verdict.level == "done"
    assert verdict.title == "All quiet: no money is in doubt, and nothing waits for a person"
    assert verdict.todo == ()


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (seen_of(case(status="in_doubt", minutes=14)), "look"),
        (seen_of(case(status="in_doubt", minutes=16)), "act"),
        (seen_of(case(minutes=0)), "act"),
        (seen_of(case(status="refund_failed", minutes=0)), "act"),
        (seen_of(case(status="refund_in_doubt", minutes=14)), "look"),
        (seen_of(case(status="captured", contradicted_at=NOW, minutes=999)), "look"),
        (OverviewSeen(NOW, missing=("saga",)), "act"),
        (OverviewSeen(NOW, is_broken=True), "act"),
        (OverviewSeen(NOW, stopped_runs=(StoppedRun(1, NOW),)), "look"),
        (OverviewSeen(NOW, failed=FAILED), "look"),
        (OverviewSeen(NOW, stuck=(ONE_STUCK,)), "look"),
        (OverviewSeen(NOW, proposals=ProposalsSeen((proposal(1),), 1)), "look"),
        (OverviewSeen(NOW, proposals=ProposalsSeen(others=1)), "look"),
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
    verdict = verdict_of(seen_of(*cases))
    assert verdict.sums == (SumInDoubt("EUR", 1_500, 2), SumInDoubt("USD", 90, 1))
    assert verdict.unknown == 1
    assert verdict.title == "Money is in doubt: nobody knows whether 4 cards were charged"


@pytest.mark.parametrize(
    ("seen", "title"),
    [
        (seen_of(case()), "Money is in doubt: nobody knows whether 1 card was charged"),
        (
            seen_of(case(status="refund_failed")),
            "Money is in doubt: 1 refund did not go through, or nobody knows",
        ),
        (
            OverviewSeen(NOW, missing=("payment_gateway", "saga")),
            "No money is in doubt, but payment gateway and saga do not run",
        ),
        (OverviewSeen(NOW, is_broken=True), "No money is in doubt, but the activity log is not as it was"),
        (OverviewSeen(NOW, failed=FAILED), "No money is in doubt; 3 failed messages wait"),
    ],
)
def test_the_title_is_about_money_first(seen: OverviewSeen, title: str) -> None:
    assert verdict_of(seen).title == title


def test_failed_payments_are_told_with_their_money() -> None:
    failed = FailedSeen(7, 25, NOW, charges=3, sums=(("USD", 50), ("EUR", 3_500)))
    (todo,) = verdict_of(OverviewSeen(NOW, failed=failed)).todo
    assert todo.what == "7 failed messages wait."
    assert plain(todo.why).startswith("25 groups, the first since ")
    assert plain(todo.why).endswith("3 are payments, 3500 EUR and 50 USD: nothing was charged.")
    (todo,) = verdict_of(OverviewSeen(NOW, failed=FAILED)).todo
    assert plain(todo.why).endswith("Nothing of them was done.")


def test_the_order_of_what_to_do() -> None:
    seen = seen_of(
        case(1, minutes=5),
        case(2, minutes=50),
        case(3, status="refund_failed"),
        case(4, status="captured", contradicted_at=NOW),
        case(5, status="in_doubt", minutes=16),
        case(6, minutes=90),
        case(7, minutes=99),
        case(8, minutes=2),
        decided={7},
        proposed={6, 8},
        proposals=ProposalsSeen((proposal(6),), 1, others=1),
        failed=FAILED,
        stopped_runs=(StoppedRun(119, NOW),),
        stuck=(ONE_STUCK,),
        missing=("payment_gateway",),
        is_broken=True,
    )
    verdict = verdict_of(seen)
    assert [(todo.what, todo.place.removeprefix("/cases/")[-2:]) for todo in verdict.todo] == [
        ("Decide: was this card charged?", "02"),
        ("Decide: was this card charged?", "01"),
        ("Agree or not, as second person.", "06"),
        ("A refund was refused.", "03"),
        ("1 payment is in doubt for longer than 15 minutes.", "05"),
        ("No instance of payment gateway runs.", "ts"),
        ("The activity log is not as it was.", "ty"),
        ("1 decision waits for a second person.", "nd"),
        ("1 decision is on its way.", "es"),
        ("The gateway contradicts a decision.", "04"),
        ("The replay R-119 stopped by itself.", "19"),
        ("3 failed messages wait.", "rs"),
        ("1 payment waits.", "ck"),
    ]
    assert verdict.waiting == 6
    assert verdict.oldest_at == NOW - timedelta(minutes=99)


@pytest.mark.parametrize(
    ("cases", "decided", "about", "since"),
    [
        ([case(1, "in_doubt", 1), case(2, "refund_in_doubt", 300)], set(), "INV-2, 1000 EUR", 300),
        ([case(1, "in_doubt", 900), case(2, "in_doubt", 20)], {1}, "INV-2, 1000 EUR", 20),
        ([case(1, "in_doubt", 16), case(2, "refund_in_doubt", 17)], set(), "", 17),
    ],
    ids=["a young one of another kind", "an older one that is decided", "two"],
)
def test_the_line_of_what_is_unclear_is_about_the_payment_that_waits_longest(
    cases: list[CaseSeen], decided: set[int], about: str, since: float
) -> None:
    todo = verdict_of(seen_of(*cases, decided=decided)).todo[0]
    assert (plain(todo.about), todo.since) == (about, NOW - timedelta(minutes=since))
    assert todo.place == ("/cases/00000000-0000-0000-0000-000000000002" if about else "/cases")


def test_each_kind_has_a_bound_says_what_it_leaves_out_and_hides_no_other() -> None:
    cases = tuple(case(number, minutes=number) for number in range(25))
    verdict = verdict_of(seen_of(*cases, is_broken=True))
    *shown, more, broken = verdict.todo
    assert [todo.place for todo in shown] == [f"/cases/{UUID(int=number)}" for number in range(24, 14, -1)]
    assert (more.what, more.button, more.place) == ("15 more like this.", "Show all", "/cases")
    assert broken.place == "/activity"


def test_what_is_counted_and_not_read_is_told() -> None:
    """Of 5 000 cases only the first are read."""
    doubt = DoubtSeen("needs_decision", "EUR", 5_000, 5_000_000, 0, NOW, decided=20, proposed=30)
    cases = tuple(case(number) for number in range(LINES_OF_A_KIND_MAX))
    verdict = verdict_of(OverviewSeen(NOW, (doubt,), cases=cases, proposals=ProposalsSeen(others=30)))
    assert verdict.title == "Money is in doubt: nobody knows whether 5000 cards were charged"
    assert (verdict.sums, verdict.waiting) == ((SumInDoubt("EUR", 5_000_000, 5_000),), 4_980)
    assert [todo.what for todo in verdict.todo[-3:]] == [
        "4940 more like this.",
        "30 decisions wait for a second person.",
        "20 decisions are on their way.",
    ]


@pytest.mark.parametrize(("number", "place"), [(1, f"/cases/{UUID(int=1)}"), (2, "/cases")])
def test_what_is_in_doubt_for_long_is_one_line(number: int, place: str) -> None:
    statuses = ("in_doubt", "refund_in_doubt")
    cases = (case(1 + at, status=statuses[at], minutes=16 + at) for at in range(number))
    (todo,) = verdict_of(seen_of(*cases)).todo
    assert (todo.kind, todo.place) == ("act", place)


STATUSES = ("in_doubt", "needs_decision", "refund_in_doubt", "refund_failed")
DRAWN = st.tuples(st.sampled_from(STATUSES), st.sampled_from([1, 16]), st.sampled_from(["", "decided", "ben", "ann"]))


@given(st.lists(DRAWN, max_size=15), st.sets(st.sampled_from(SERVICES)), st.booleans())
def test_whatever_must_be_acted_on_is_named(drawn: list[tuple[str, int, str]], missing: set[str], broken: bool) -> None:
    """Ben looks. What Ann proposed he may answer, and not what he proposed himself."""
    said = {word: [number for number, one in enumerate(drawn) if one[2] == word] for word in ("decided", "ben", "ann")}
    seen = seen_of(
        *(case(number, status, minutes) for number, (status, minutes, _) in enumerate(drawn)),
        decided=said["decided"],
        proposed=said["ben"] + said["ann"],
        proposals=ProposalsSeen(tuple(map(proposal, said["ann"])), len(said["ann"]), len(said["ben"])),
        missing=tuple(sorted(missing)),
        is_broken=broken,
    )
    verdict = verdict_of(seen)
    whats = " ".join(todo.what for todo in verdict.todo)
    assert verdict.level != "act" or verdict.todo
    assert ("The activity log" in whats) is broken
    assert all(f"No instance of {name.replace('_', ' ')} runs." in whats for name in missing)
    silent = [status for status, minutes, word in drawn if not word and (minutes == 1 and status.endswith("in_doubt"))]
    assert ("in doubt for longer" in whats) is any(
        minutes == 16 and not word and status.endswith("in_doubt") for status, minutes, word in drawn
    )
    assert bool(whats) is bool(missing or broken or len(drawn) > len(silent)), "only what is young has no line"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (None, "The rest were not sent."),
        (Halt.FAILED, "A message failed again. The rest were not sent."),
        (Halt.NO_SIGN, "Nothing was heard of a message for a minute. The rest were not sent."),
        (Halt.REFUSED, "The broker does not take its messages. The rest were not sent."),
        (Halt.ERROR, "A step of it failed, with an error of Remit's own. The rest were not sent."),
    ],
)
def test_a_replay_that_stopped_says_why(how: Halt | None, why: str) -> None:
    (todo,) = verdict_of(OverviewSeen(NOW, stopped_runs=(StoppedRun(1, NOW, how),))).todo
    assert plain(todo.why) == why
