"""One message that failed on one queue is one record, however often and in whatever order it arrives."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from re import fullmatch
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.staff.dead_letters import (
    DeadLetter,
    DeadLetterRecord,
    DeadLetterStatus,
    Disposition,
    arrive,
    continues,
    reopened,
)
from services.staff.dead_letters import discarded as discarded_by
from services.staff.dead_letters import replayed as replayed_by

ID = UUID("0190a000-0000-7000-8000-000000000002")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ANN = Disposition("ann", NOW)


def letter(generation: int = 0, reason: str = "not_json") -> DeadLetter:
    return DeadLetter(ID, "saga.events", "remit", reason, generation=generation, body=b"{", body_bytes=1)


def record(*letters: DeadLetter) -> DeadLetterRecord:
    kept: DeadLetterRecord | None = None
    for one in letters:
        kept = arrive(kept, one, NOW)
    assert kept is not None
    return kept


def test_a_duplicate_only_counts() -> None:
    later = NOW + timedelta(minutes=1)
    assert arrive(record(letter()), letter(), later) == replace(record(letter()), seen=2, last_seen=later)


def test_a_failure_after_a_replay_opens_the_same_record() -> None:
    replayed = replayed_by(record(letter()), ANN, ID)
    again = arrive(replayed, letter(1, "handler_failed"), NOW)
    assert (again.status, again.replays, again.seen, again.settlement) == (DeadLetterStatus.OPEN, 1, 2, None)
    assert again.letter.reason == "handler_failed"


def test_what_is_undone_is_as_it_was() -> None:
    before = record(letter())
    assert reopened(replayed_by(before, ANN, ID)) == before
    assert reopened(discarded_by(before, ANN)) == before


def test_a_replay_forgets_what_became_of_the_one_before() -> None:
    told = replace(record(letter()), outcome="handled", outcome_reason="x", outcome_at=NOW)
    again = replayed_by(told, ANN, ID)
    assert (again.replay_entry, again.outcome, again.outcome_reason, again.outcome_at) == (ID, None, None, None)


def test_a_late_duplicate_of_a_replayed_message_changes_nothing() -> None:
    replayed = replayed_by(record(letter()), ANN, ID)
    assert arrive(replayed, letter(0), NOW) == replace(replayed, seen=2)


def test_a_duplicate_of_a_discarded_message_changes_nothing() -> None:
    discarded = discarded_by(record(letter()), ANN)
    assert arrive(discarded, letter(0), NOW) == replace(discarded, seen=2)


def test_a_failure_after_a_lost_replay_opens_even_a_discarded_record() -> None:
    discarded = discarded_by(record(letter()), ANN)
    again = arrive(discarded, letter(3), NOW)
    assert (again.status, again.replays, again.settlement) == (DeadLetterStatus.OPEN, 3, None)


def test_only_a_replay_is_counted_and_either_names_its_person() -> None:
    replayed = replayed_by(record(letter()), ANN, ID)
    discarded = discarded_by(record(letter()), ANN)
    assert (replayed.status, replayed.replays, replayed.settlement) == (DeadLetterStatus.REPLAYED, 1, ANN)
    assert (discarded.status, discarded.replays, discarded.settlement) == (DeadLetterStatus.DISCARDED, 0, ANN)


@pytest.mark.parametrize(
    ("kept", "goes_on"),
    [
        (None, False),
        (record(letter()), True),
        (record(replace(letter(), message_id="m-1")), False),
        (record(replace(letter(), queue="staff.cases")), False),
    ],
    ids=["no record", "of a message without an id", "of a message with an id", "of another queue"],
)
def test_a_failure_continues_the_record_that_was_replayed_with_its_own_id(
    kept: DeadLetterRecord | None, goes_on: bool
) -> None:
    assert continues(kept, letter(1)) is goes_on


def test_a_dead_letter_without_a_count_counts_nothing() -> None:
    bare = DeadLetter(ID, "saga.events", "broker", "rejected")
    assert (bare.tries, bare.generation, bare.body_bytes) == (0, 0, 0)


@pytest.mark.parametrize("generation", [0, 3])
def test_a_record_that_was_lost_starts_where_the_message_is(generation: int) -> None:
    assert record(letter(generation)).replays == generation


@given(st.lists(st.sampled_from(["replay", "fail", "late"]), max_size=40))
def test_a_record_is_open_exactly_if_its_last_failure_was_not_settled(history: list[str]) -> None:
    kept, failures, waiting = record(letter()), 1, True
    for what in history:
        if what == "replay" and kept.status is DeadLetterStatus.OPEN:
            kept, waiting = replayed_by(kept, ANN, ID), False
        elif what == "fail":
            kept, failures, waiting = arrive(kept, letter(kept.replays), NOW), failures + 1, True
        elif what == "late" and kept.replays:
            kept, failures = arrive(kept, letter(kept.replays - 1), NOW), failures + 1
    assert (kept.status is DeadLetterStatus.OPEN, kept.seen) == (waiting, failures)


# -- the version that a person saw -----------------------------------------------------------------------------------------------------

SEEN = record(letter())


@pytest.mark.parametrize(
    "after",
    [
        arrive(SEEN, letter(), NOW + timedelta(minutes=1)),
        replace(SEEN, outcome="rejected"),
        replace(SEEN, outcome_reason="no such invoice"),
        replace(SEEN, outcome_at=NOW),
    ],
    ids=["a duplicate", "an outcome", "its reason", "its time"],
)
def test_what_a_person_saw_still_holds_after_news_that_change_nothing_to_send(after: DeadLetterRecord) -> None:
    assert after != SEEN
    assert after.version == SEEN.version


@pytest.mark.parametrize(
    "after",
    [
        replayed_by(SEEN, ANN, ID),
        discarded_by(SEEN, ANN),
        record(letter(reason="handler_failed")),
        record(replace(letter(), body=b"[")),
        record(replace(letter(), headers={"to": "another"})),
    ],
    ids=["replayed", "discarded", "another reason", "another body", "another header"],
)
def test_whoever_saw_something_else_is_told_so(after: DeadLetterRecord) -> None:
    assert after.version != SEEN.version


def test_a_version_is_a_short_text_whatever_the_message_holds() -> None:
    strange = record(replace(letter(), headers={"x": "\ud800"}, body=bytes(range(256))))
    assert fullmatch("[0-9a-f]{16}", strange.version)
