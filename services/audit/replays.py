"""Replays of many messages: what such a run says it sent was sent once, by one entry of the journal, and nothing else was."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

from services.audit.align import StoredRow
from services.audit.finding import Tally
from services.audit.stores import Stores

_ITEMS: Final = """
    SELECT i.run_no, i.position, i.letter_id, i.state, i.entry_id, j.action, j.subject,
           count(*) FILTER (WHERE i.entry_id IS NOT NULL) OVER (PARTITION BY i.entry_id) AS items_of_entry,
           count(*) FILTER (WHERE i.state BETWEEN 1 AND 6) OVER (PARTITION BY i.run_no, i.letter_id) AS times_sent
    FROM replay_items i LEFT JOIN journal j ON j.id = i.entry_id ORDER BY i.run_no, i.position"""
_HELD: Final = """
    SELECT i.run_no, i.position, i.letter_id FROM replay_items i LEFT JOIN replay_runs r ON r.no = i.run_no
    WHERE i.state < 2 AND (r.no IS NULL OR r.ended_at IS NOT NULL OR r.state = 'previewed') ORDER BY 1, 2"""
"""A letter that waits in a run, or was sent by it, can be in no other one."""
_STANDING_STILL: Final = """
    SELECT no, id FROM replay_runs WHERE ended_at IS NULL AND greatest(lease_until, paced_at) > now() + interval '1 day' ORDER BY no"""
_SENT: Final = range(1, 7)
"""The states of a message that was sent: it is on its way, or something became of it, or nothing was heard."""


async def runs_sent_once(counted: Tally, stores: Stores) -> None:
    """Every message of a run that was sent has one entry in the journal, about its own dead letter; no other message has one."""
    if not stores.has("staff"):
        return
    items: AsyncIterator[StoredRow] = stores.databases["staff"].rows(_ITEMS)
    async for item in items:
        counted.look()
        for why in _wrong(item):
            counted.breach(item["letter_id"], f"run {item['run_no']}, message {item['position']}: {why}")
    async for row in stores.databases["staff"].rows(_HELD):
        why = f"run {row['run_no']}, message {row['position']}: it waits, and the run is not under way"
        counted.breach(row["letter_id"], why)
    async for row in stores.databases["staff"].rows(_STANDING_STILL):
        counted.breach(row["id"], f"run {row['no']} is held for years: no instance goes on with it")


def _wrong(item: StoredRow) -> Iterator[str]:
    if item["state"] not in _SENT:
        if item["entry_id"] is not None:
            yield "it was not sent, and the journal says that it was replayed"
        return
    if item["action"] != "replay":
        yield "it was sent, and the journal has no entry of it"
    elif item["subject"] != item["letter_id"]:
        yield "the entry that sent it is about another dead letter"
    elif item["items_of_entry"] > 1:
        yield "the entry that sent it sent another message of a run, too"
    if item["times_sent"] > 1:
        yield "the run sent it twice"
