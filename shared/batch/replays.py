"""What a service tells staff about messages that they replayed. Nothing is said about any other message."""

from collections.abc import Iterator, Mapping
from uuid import UUID

from shared.batch.inbox import DecidedBatch, Item
from shared.contracts.operations import REPLAYS_MAX, ReplayHandled
from shared.messaging import dead_letter_headers
from shared.messaging.codec import encode
from shared.messaging.envelope import Cause, Draft, Outgoing


def has_replays(decided: DecidedBatch) -> bool:
    """Whether a message of the batch was replayed by staff."""
    return any(_is_replay(item) for items in (decided.fresh, decided.repeated) for item in items)


def told(decided: DecidedBatch, refused: Mapping[UUID, str], *, source: str) -> list[Outgoing]:
    """The messages that tell what becomes of the replayed ones in this batch. `refused`: the reasons for those that are refused, by id."""
    return [
        _message(item, replay_id, outcome, decided, refused.get(item.id) if outcome == "rejected" else None, source)
        for item, replay_id, outcome in _replayed(decided, refused)
    ]


def _replayed(decided: DecidedBatch, refused: Mapping[UUID, str]) -> Iterator[tuple[Item, UUID, str]]:
    for items, is_fresh in ((decided.fresh, True), (decided.repeated, False)):
        for item in items:
            replay_id = dead_letter_headers.replay_id(item.delivery) if _is_replay(item) else None
            if replay_id is not None:
                yield item, replay_id, ("rejected" if item.id in refused else "handled") if is_fresh else "duplicate"


def _is_replay(item: Item) -> bool:
    headers = item.delivery.headers
    return bool(headers) and dead_letter_headers.REPLAY_ID in headers and dead_letter_headers.replays(item.delivery) > 0


def _message(
    item: Item, replay_id: UUID, outcome: str, decided: DecidedBatch, reason: str | None, source: str
) -> Outgoing:
    """What is told about one of them. Its id follows from the replay and the outcome, so the same told twice is one message."""
    report = ReplayHandled(
        replay_id=replay_id,
        message_id=item.id,
        queue=item.delivery.queue,
        replays=min(dead_letter_headers.replays(item.delivery), REPLAYS_MAX),
        outcome=outcome,
        reason=reason,
    )
    correlation_id = item.message.correlation_id if item.message is not None else str(item.id)
    return encode(Draft(report), Cause(replay_id, correlation_id, decided.now), f"replay:{outcome}", source=source)
