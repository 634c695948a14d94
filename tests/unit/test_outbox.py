"""The unpublished rest of an outbox batch, decided by the broker's results: a pure function."""

from base64 import b64encode
from collections.abc import Sequence
from uuid import UUID

import pytest

from shared.messaging.envelope import Lane, Outgoing
from shared.messaging.publisher import IN_FLIGHT_MAX, Published, WaveSize
from shared.messaging.reply_address import DIRECT
from shared.persistence.outbox import (
    ANSWER_LOSSES_MAX,
    ANSWER_REFUSALS_MAX,
    LOSSES_MAX,
    POISON,
    PUBLIC_REFUSED,
    REFUSED,
    RESERVED_S,
    UNROUTABLE,
    OutboxBatch,
    Unpublished,
    WaitingPart,
    parts_of,
    unpublished_of,
)
from shared.records import replace

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


def test_an_answer_that_ends_connections_is_dropped_after_a_few() -> None:
    poison = Published(poison=[ANSWER])
    for losses in range(ANSWER_LOSSES_MAX - 1):
        (part,) = parts_of(unpublished_of(replace(outbox_batch(ANSWER), losses=losses), poison))
        assert (part.losses, part.delay_s) == (losses + 1, POISON.delay_s(losses))
    last = unpublished_of(replace(outbox_batch(ANSWER), losses=ANSWER_LOSSES_MAX - 1), poison)
    assert ([message.id for message in last.dropped], last.count) == ([ANSWER], 0)


def test_any_other_message_is_quarantined_in_the_end() -> None:
    poison = Published(poison=[ONE])
    for losses in range(LOSSES_MAX):
        left = unpublished_of(replace(outbox_batch(ONE), losses=losses), poison)
        (part,) = parts_of(left)
        is_last = losses == LOSSES_MAX - 1
        assert (part.losses, part.delay_s is None) == (losses + 1, is_last)
        assert [message.id for message in left.quarantined] == ([ONE] if is_last else [])


def test_what_our_own_queues_have_taken_owes_its_public_copy() -> None:
    left = unpublished_of(outbox_batch(ONE, TWO, THREE), Published(confirmed=[ONE, TWO], refused=[THREE]), {TWO})
    assert ([message.id for message in left.public], left.stuck, left.count) == ([TWO], 1, 2)


def test_an_answer_with_a_crafted_address_is_dropped_at_its_first_loss() -> None:
    """The broker did not write this address, so nobody waits there."""
    process_id = b64encode(b"\x83Xw\x07reply@1" + bytes(12)).decode()
    crafted = replace(
        message(ANSWER), routing_key=f"{DIRECT}.{process_id}.{b64encode(bytes(16)).decode()}", exchange=""
    )
    left = unpublished_of(OutboxBatch(UUID(int=99), [crafted]), Published(poison=[ANSWER]))
    assert (left.dropped, left.count) == ([crafted], 0)


@pytest.mark.parametrize("fate", ["refused", "silent", "unclear", "poison", "failed"])
def test_of_two_answers_with_one_id_none_is_lost(fate: str) -> None:
    """A command came twice at once, with two addresses: one queue took its answer, and the other did not."""
    published = Published(**{"confirmed": [ANSWER], "unroutable": [ANSWER], fate: [ANSWER]})
    assert unpublished_of(outbox_batch(ANSWER, ANSWER), published).count == 2


def test_each_reason_waits_by_itself_and_so_does_each_poison_message() -> None:
    batch = OutboxBatch(UUID(int=99), [message(id_) for id_ in (ONE, TWO, THREE, ANSWER)], refusals=1)
    one, two, three, answer = batch.messages
    left = Unpublished(batch, unknown=[one], refused=[two], poison=[three, answer])
    assert parts_of(left) == [
        WaitingPart([one], Lane.INSIDE, 1, 0, RESERVED_S),
        WaitingPart([two], Lane.INSIDE, 2, 0, REFUSED.delay_s(1)),
        WaitingPart([three], Lane.INSIDE, 1, 1, POISON.delay_s(0)),
        WaitingPart([answer], Lane.INSIDE, 1, 1, POISON.delay_s(0)),
    ]


def test_what_the_outside_lane_does_not_get_rid_of_goes_to_the_retry_lane() -> None:
    batch = OutboxBatch(UUID(int=99), [message(id_) for id_ in (ONE, TWO, THREE, ANSWER)], lane=Lane.OUTSIDE)
    published = Published(confirmed=[ONE], refused=[TWO], poison=[THREE])
    left = unpublished_of(batch, published, {ANSWER})
    assert [(part.lane, [m.id for m in part.messages], part.delay_s) for part in parts_of(left)] == [
        (Lane.RETRY, [TWO], REFUSED.delay_s(0)),
        (Lane.RETRY, [ANSWER], 0),
        (Lane.RETRY, [THREE], POISON.delay_s(0)),
    ]
    (unknown,) = parts_of(Unpublished(batch, unknown=[batch.messages[0]]))
    assert unknown.lane is Lane.OUTSIDE, "an outage is nobody's fault"


def test_a_public_copy_changes_its_lane_and_is_repeated_ever_more_rarely() -> None:
    event = replace(message(ONE), exchange="invoice.events")
    batch = OutboxBatch(UUID(int=99), [event], refusals=3)
    assert parts_of(Unpublished(batch, public=[event])) == [WaitingPart([event], Lane.PUBLIC, 0, 0, 0.0)]
    copy = replace(batch, lane=Lane.PUBLIC)
    assert parts_of(Unpublished(copy, refused=[event])) == [
        WaitingPart([event], Lane.PUBLIC, 4, 0, PUBLIC_REFUSED.delay_s(3))
    ]
    assert REFUSED.delay_s(1_000) < PUBLIC_REFUSED.delay_s(1_000) <= 300


@pytest.mark.parametrize(
    ("exchange", "lane"),
    [
        ("invoice.events", Lane.INSIDE),
        ("settlement.commands", Lane.INSIDE),
        ("dead-letters", Lane.OUTSIDE),
        ("", Lane.OUTSIDE),
    ],
)
def test_what_is_of_others_goes_on_the_outside_lane(exchange: str, lane: Lane) -> None:
    assert replace(message(ONE), exchange=exchange).lane is lane


def test_waves_are_halved_until_a_message_is_alone_and_grow_again() -> None:
    size = WaveSize()
    sizes = [size.at_most]
    while size.at_most > 1:
        size.lost(size.at_most)
        sizes.append(size.at_most)
    assert sizes == [256, 128, 64, 32, 16, 8, 4, 2, 1]
    size.lost(1)
    assert size.at_most == 1
    for _ in range(20):
        size.passed()
    assert size.at_most == IN_FLIGHT_MAX


def test_waits_double_and_do_not_grow_for_ever() -> None:
    assert [UNROUTABLE.delay_s(refusals) for refusals in (0, 1, 6, 1_000)] == [5.0, 10.0, 320.0, 320.0]
    assert [REFUSED.delay_s(refusals) for refusals in (0, 1, 2, 1_000)] == [2.0, 4.0, 8.0, 8.0]
