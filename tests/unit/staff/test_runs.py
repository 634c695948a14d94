"""A run goes one step at a time, stops at the first bad sign, and never sends more than its list or its speed allow."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.staff import runs
from services.staff.runs import (
    ENDED,
    BadSign,
    Bin,
    Candidate,
    Counts,
    Halt,
    ItemState,
    Run,
    RunAct,
    RunRefusal,
    RunState,
    RunStep,
    after,
    bins_of,
    in_order,
    turn,
    with_old_taken_in,
)
from shared.records import replace

NOW = datetime(2026, 11, 28, 3, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
RUNNING = Run(RunState.RUNNING, RunStep.ONE, 10)


def counts(**of: int) -> Counts:
    return Counts({ItemState[name.upper()]: number for name, number in of.items()})


def letter_id(number: int) -> UUID:
    return UUID(int=number)


def candidate(number: int, **changes: Any) -> Candidate:
    plain = Candidate(
        letter_id(number),
        is_open=True,
        why=None,
        may_charge=True,
        is_settled=False,
        in_run=None,
        currency="EUR",
        amount_minor=100 * number,
        first_seen=NOW - timedelta(minutes=number),
        since=NOW - timedelta(minutes=number),
    )
    return replace(plain, **changes)


# -- steps ---------------------------------------------------------------------------------------------------------------------------------


def test_one_is_sent_and_waited_for() -> None:
    assert turn(RUNNING, counts(waits=500), None, SECOND).send == 1
    assert turn(RUNNING, counts(waits=499, sent=1), None, SECOND) == runs.RunTurn(RUNNING)
    over = turn(RUNNING, counts(waits=499, handled=1), None, SECOND)
    assert (over.run.state, over.send) == (RunState.WAITING, 0)


def test_ten_go_on_to_a_hundred_by_themselves_and_then_a_person_is_waited_for() -> None:
    ten = replace(RUNNING, step=RunStep.TEN)
    assert turn(ten, counts(waits=499, handled=1), None, SECOND).send == 10
    hundred = turn(ten, counts(waits=489, handled=9, rejected=1, duplicate=1), None, SECOND).run
    assert (hundred.state, hundred.step) == (RunState.RUNNING, RunStep.HUNDRED)
    assert turn(hundred, counts(waits=489, handled=11), None, SECOND).send == 100
    assert turn(hundred, counts(waits=389, handled=111), None, SECOND).run.state is RunState.WAITING


@pytest.mark.parametrize("step", list(RunStep))
def test_a_run_without_more_messages_is_done(step: RunStep) -> None:
    assert turn(replace(RUNNING, step=step), counts(handled=1), None, SECOND).run.state is RunState.DONE


@pytest.mark.parametrize(
    ("rate", "since_s", "in_flight", "sent"),
    [
        (10, 0.5, 0, 5),
        (10, 0.05, 0, 0),
        (10, 60, 0, 10),
        (10, 1, 95, 5),
        (10, 1, 100, 0),
        (1, 1, 19, 1),
        (500, 0.2, 0, 100),
    ],
)
def test_the_rest_goes_at_its_speed_and_no_more_is_on_its_way_than_ten_seconds_of_it(
    rate: int, since_s: float, in_flight: int, sent: int
) -> None:
    rest = Run(RunState.RUNNING, RunStep.REST, rate)
    assert turn(rest, counts(waits=5_000, sent=in_flight), None, timedelta(seconds=since_s)).send == sent


@pytest.mark.parametrize(("how", "why"), [(Halt.FAILED, None), (Halt.NO_SIGN, None), (Halt.REFUSED, "saga.events")])
def test_it_stops_by_itself_at_the_first_bad_sign(how: Halt, why: str | None) -> None:
    stopped = turn(replace(RUNNING, step=RunStep.REST), counts(waits=9), BadSign(letter_id(7), how, why), SECOND)
    assert stopped.send == 0
    assert stopped.run == Run(RunState.HALTED, RunStep.REST, 10, 0, letter_id(7), how, why)
    on, not_on = RunAct.LEAVE_OUT, RunAct.RESUME
    if how is Halt.REFUSED:  # nothing has gone wrong with any message: there is none to leave out
        on, not_on = not_on, on
    assert after(stopped.run, not_on) is RunRefusal.RUN_NOT_RUNNING
    assert after(stopped.run, on) == replace(RUNNING, step=RunStep.REST)


@given(
    st.sampled_from(RunState),
    st.sampled_from(RunStep),
    st.integers(1, runs.RATE_MAX),
    st.dictionaries(st.sampled_from(ItemState), st.integers(0, 10_000)),
    st.booleans(),
    st.timedeltas(timedelta(0), DAY),
)
def test_only_a_run_that_is_running_sends_and_never_more_than_waits(
    state: RunState, step: RunStep, rate: int, of: dict[ItemState, int], is_bad: bool, since: timedelta
) -> None:
    bad = BadSign(letter_id(1), Halt.FAILED) if is_bad else None
    result = turn(Run(state, step, rate), Counts(of), bad, since)
    assert 0 <= result.send <= of.get(ItemState.WAITS, 0)
    if state is not RunState.RUNNING:
        assert result == runs.RunTurn(Run(state, step, rate))
    if is_bad:
        assert result.send == 0


# -- acts ----------------------------------------------------------------------------------------------------------------------------------


def test_nothing_begins_that_charges_before_somebody_says_that_it_shall() -> None:
    preview = Run(RunState.PREVIEWED, RunStep.ONE, 10, charges=3)
    assert after(preview, RunAct.TRY, sure=False) is RunRefusal.NOT_SURE
    assert after(preview, RunAct.TRY, sure=True) == replace(preview, state=RunState.RUNNING)
    assert after(replace(preview, charges=0), RunAct.TRY, sure=False) == replace(RUNNING, charges=0)


def test_what_charges_goes_by_ten_and_a_hundred_before_the_rest() -> None:
    tried = Run(RunState.WAITING, RunStep.ONE, 10, charges=1)
    assert after(tried, RunAct.REST) is RunRefusal.RUN_NOT_RUNNING
    for ready in (replace(tried, step=RunStep.HUNDRED), replace(tried, charges=0)):
        begun = after(ready, RunAct.REST, rate=500)
        assert isinstance(begun, Run)
        assert (begun.state, begun.step, begun.rate) == (RunState.RUNNING, RunStep.REST, 500)


@pytest.mark.parametrize("rate", [0, -1, 501])
def test_a_speed_has_bounds(rate: int) -> None:
    assert after(RUNNING, RunAct.SPEED, rate=rate) is RunRefusal.SPEED


@pytest.mark.parametrize("state", sorted(ENDED))
@pytest.mark.parametrize("act", list(RunAct))
def test_what_has_ended_stays_ended(state: RunState, act: RunAct) -> None:
    assert after(replace(RUNNING, state=state), act) is RunRefusal.RUN_NOT_RUNNING


def test_a_pause_keeps_the_step() -> None:
    paused = after(replace(RUNNING, step=RunStep.REST), RunAct.PAUSE)
    assert isinstance(paused, Run)
    assert (paused.state, paused.step) == (RunState.PAUSED, RunStep.REST)
    assert after(paused, RunAct.RESUME) == replace(RUNNING, step=RunStep.REST)


# -- the preview ---------------------------------------------------------------------------------------------------------------------------


def test_each_message_is_in_the_bin_that_says_what_a_replay_would_do() -> None:
    found = {
        Bin.CHARGES: candidate(1),
        Bin.CHARGES_NOBODY: candidate(2, may_charge=False, since=NOW - 9 * DAY),
        Bin.SETTLED: candidate(3, is_settled=True),
        Bin.TOO_OLD: candidate(4, since=NOW - DAY - SECOND),
        Bin.CANNOT: candidate(5, why="card_data"),
        Bin.IN_A_RUN: candidate(6, in_run=119),
        Bin.NOT_OPEN: candidate(7, is_open=False),
    }
    assert {bin_: one.bin(NOW, DAY) for bin_, one in found.items()} == {bin_: bin_ for bin_ in found}
    summaries = {one.bin: one for one in bins_of(found.values(), NOW, DAY)}
    assert {bin_: one.count for bin_, one in summaries.items()} == dict.fromkeys(found, 1)
    sums = {bin_: dict(one.sums) for bin_, one in summaries.items() if one.sums}
    assert sums == {Bin.CHARGES: {"EUR": 100}, Bin.TOO_OLD: {"EUR": 400}}
    taken_in = {one.bin: one for one in with_old_taken_in(summaries.values())}
    assert (taken_in[Bin.CHARGES].count, dict(taken_in[Bin.CHARGES].sums)) == (2, {"EUR": 500})
    assert taken_in[Bin.CHARGES].oldest == summaries[Bin.TOO_OLD].oldest
    assert taken_in.keys() == summaries.keys() - {Bin.TOO_OLD}
    assert with_old_taken_in(taken_in.values()) == list(taken_in.values())
    assert summaries[Bin.IN_A_RUN].why == {"R-119": 1}
    assert summaries[Bin.CANNOT].why == {"card_data": 1}
    assert {one.letter_id.int for one in in_order(found.values(), NOW, DAY)} == {1, 2, 3}


def test_currencies_are_never_added_up() -> None:
    (charges,) = bins_of([candidate(1), candidate(2, currency="USD"), candidate(3)], NOW, DAY)
    assert charges.sums == {"EUR": 400, "USD": 200}


def test_the_smallest_charge_is_tried_first_and_the_others_follow_by_age() -> None:
    some = [candidate(1), candidate(2), candidate(3), candidate(4, may_charge=False, amount_minor=1)]
    assert [one.letter_id.int for one in in_order(some, NOW, DAY)] == [1, 4, 3, 2]
