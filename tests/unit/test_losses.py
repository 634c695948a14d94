"""How many messages a consumer takes after losses, and how long it waits."""

from shared.messaging.losses import LOSSES_MAX, Losses
from shared.messaging.topology import DELIVERY_LIMIT
from shared.retry_policy import OUTAGE

PREFETCH = 400


def lost(times: int) -> Losses:
    losses = Losses(PREFETCH)
    for _ in range(times):
        losses.lost()
    return losses


def test_one_loss_changes_nothing_and_the_second_takes_one_at_a_time() -> None:
    assert [lost(times).prefetch for times in range(LOSSES_MAX + 1)] == [PREFETCH, PREFETCH, 1]
    assert lost(1).reason == ""
    assert lost(2).reason == "lost 2 times in a row; takes one message at a time"


def test_an_outage_counts_against_no_message() -> None:
    losses = Losses(PREFETCH)
    for _ in range(10):
        losses.not_opened()
    assert losses.prefetch == PREFETCH


def test_the_full_prefetch_comes_back_when_as_many_messages_are_through_as_a_loss_can_concern() -> None:
    """Sooner, the messages that were beside the deadly one would be beside it again."""
    losses = lost(2)
    losses.acknowledged(PREFETCH - 1)
    assert losses.prefetch == 1
    losses.lost()
    losses.acknowledged(PREFETCH - 1)
    assert losses.prefetch == 1, "a loss begins the count anew"
    losses.acknowledged(1)
    assert (losses.prefetch, losses.reason) == (PREFETCH, "")
    losses.lost()
    assert losses.prefetch == PREFETCH


def test_a_few_acknowledgements_between_losses_do_not_hide_them() -> None:
    losses = lost(1)
    losses.acknowledged(3)
    losses.lost()
    assert losses.prefetch == 1


def test_an_empty_queue_has_nothing_that_ends_connections() -> None:
    losses = lost(5)
    losses.found_nothing()
    assert (losses.prefetch, losses.reason) == (PREFETCH, "")


def test_a_wary_consumer_begins_with_one_message_and_says_nothing_of_it() -> None:
    losses = Losses(50, wary=True)
    assert (losses.prefetch, losses.reason) == (1, "")
    losses.acknowledged(50)
    assert losses.prefetch == 50


def test_the_wait_grows_until_something_is_acknowledged() -> None:
    losses = Losses(PREFETCH)
    least = []
    for _ in range(12):
        losses.not_opened()
        least.append(losses.delay_s(nothing_came=False))
    assert least[-1] >= OUTAGE.maximum_s * (1 - OUTAGE.jitter)
    losses.acknowledged(1)
    losses.lost()
    assert losses.delay_s(nothing_came=False) <= OUTAGE.initial_s


def test_the_wait_is_short_only_while_one_message_is_taken_and_none_came() -> None:
    """If a delivery came, a broken network is as likely: its losses must not use up the limit of the message at the head within seconds."""
    losses = lost(20)
    assert losses.delay_s(nothing_came=True) <= OUTAGE.initial_s
    assert losses.delay_s(nothing_came=False) > 1.0


def test_the_wait_grows_when_losses_go_on_beyond_what_one_message_can_cause() -> None:
    """A middlebox that resets before the first delivery never uses up the limit of a message: ten connections a second, for ever."""
    one_message = LOSSES_MAX + DELIVERY_LIMIT
    assert lost(one_message).delay_s(nothing_came=True) <= OUTAGE.initial_s
    for limits in range(1, 5):
        delay_s = lost(limits * (DELIVERY_LIMIT + 1) + one_message).delay_s(nothing_came=True)
        assert OUTAGE.initial_s * 2.0 ** (limits - 1) < delay_s <= OUTAGE.initial_s * 2.0**limits
    assert lost(1_000_000).delay_s(nothing_came=True) >= OUTAGE.maximum_s * (1 - OUTAGE.jitter)


def test_one_loss_of_a_wary_consumer_is_no_reason_to_be_unready() -> None:
    """A restart of the broker is one loss, and such a consumer takes one message at a time anyhow."""
    losses = Losses(PREFETCH, wary=True)
    losses.lost()
    assert (losses.prefetch, losses.reason) == (1, "")
    losses.lost()
    assert losses.reason
