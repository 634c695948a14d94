"""The unpublished rest of an outbox batch, decided by the broker's results: a pure function."""

from collections.abc import Sequence
from uuid import UUID

import pytest

from shared.messaging.envelope import Outgoing
from shared.messaging.publisher import Published
from shared.persistence.outbox import ANSWER_REFUSALS_MAX, REFUSED, UNROUTABLE, OutboxBatch, Unpublished, unpublished_of

ONE, TWO, THREE, ANSWER = (UUID(int=number) for number in range(1, 5))


def message(id_: UUID) -> Outgoing:
    return Outgoing(id_, "e", "k", "t", "c", b"{}", droppable=id_ == ANSWER)


def outbox_batch(*ids: UUID, refusals: int = 0) -> OutboxBatch:
    return OutboxBatch(UUID(int=99), [message(id_) for id_ in ids], refusals)


def ids(left: Unpublished) -> tuple[list[UUID], list[UUID], list[UUID]]:
    unknown, unroutable, refused = ([m.id for m in some] for some in (left.unknown, left.unroutable, left.refused))
    return unknown, unroutable, refused


def test_a_confirmed_batch_leaves_nothing() -> None:
    left = unpublished_of(outbox_batch(ONE, TWO), Published(confirmed=[ONE, TWO]))
    assert (left.count, left.is_answered) == (0, False)


def test_an_unconfirmed_batch_stays_unchanged() -> None:
    left = unpublished_of(outbox_batch(ONE, TWO), Published(failed=[ONE, TWO]))
    assert (left.count, left.is_answered) == (2, False)


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (Published(confirmed=[ONE], failed=[TWO, THREE]), ([TWO, THREE], [], [])),
        (Published(confirmed=[ONE], unroutable=[TWO], refused=[THREE]), ([], [TWO], [THREE])),
        (Published(confirmed=[ONE, THREE], unencodable=[TWO]), ([], [TWO], [])),
        (Published(refused=[ONE, TWO, THREE]), ([], [], [ONE, TWO, THREE])),
        (Published(unroutable=[ONE], refused=[TWO], failed=[THREE]), ([THREE], [ONE], [TWO])),
        (
            Published(confirmed=[ONE], failed=[ONE, TWO, THREE]),
            ([TWO, THREE], [], []),
        ),  # twice at once: one copy is enough
    ],
)
def test_the_rest_is_sorted_by_the_brokers_results(
    published: Published, expected: tuple[Sequence[UUID], Sequence[UUID], Sequence[UUID]]
) -> None:
    left = unpublished_of(outbox_batch(ONE, TWO, THREE), published)
    assert (ids(left), left.is_answered) == (expected, True)


def test_an_answer_is_dropped_if_its_queue_is_gone_and_kept_if_it_is_full() -> None:
    assert unpublished_of(outbox_batch(ANSWER), Published(unroutable=[ANSWER])).count == 0
    assert ids(unpublished_of(outbox_batch(ANSWER), Published(refused=[ANSWER]))) == ([], [], [ANSWER])
    long_full = outbox_batch(ANSWER, ONE, refusals=ANSWER_REFUSALS_MAX)
    assert ids(unpublished_of(long_full, Published(refused=[ANSWER, ONE]))) == ([], [], [ONE])
    assert ids(unpublished_of(long_full, Published(confirmed=[ONE], failed=[ANSWER]))) == ([ANSWER], [], [])


def test_waits_double_and_do_not_grow_for_ever() -> None:
    assert [UNROUTABLE.delay_s(refusals) for refusals in (0, 1, 6, 1_000)] == [5.0, 10.0, 320.0, 320.0]
    assert [REFUSED.delay_s(refusals) for refusals in (0, 1, 2, 1_000)] == [2.0, 4.0, 8.0, 8.0]
