"""Hashes over commands, by which they are known if they come again. From one over a card number the number can be found by trying.

Beside the hash of a command with long numbers stands one of its outline, in which they do not count. It may stay, except where card data
was found without a number: a verification value is too short for an outline to leave it out. What is found so, the border refuses anyway.
"""

from collections.abc import AsyncIterator, Collection
from uuid import UUID

from services.purge.cleaner import Cleaner
from shared.persistence.database import Connection, Database

HASHES_MAX = 1_000
"""In one transaction, so that locks stay short."""

_WITH_LONG_NUMBERS = "SELECT command_id FROM answers WHERE content_hash IS NOT NULL AND outline_hash IS NOT NULL"
_FORGET_CONTENT = "UPDATE answers SET content_hash = NULL WHERE command_id = ANY($1::uuid[])"
_FORGET = """
    UPDATE answers SET content_hash = NULL, outline_hash = CASE WHEN $2 THEN outline_hash END WHERE command_id = ANY($1::uuid[])"""
_OF_EVENT = "SELECT cause_id FROM events WHERE stream_id = $1 AND version = $2"
_OF_PAYMENTS = """
    SELECT e.cause_id FROM payments p JOIN events e ON e.stream_id = p.invoice_id AND e.version = p.version
    WHERE p.payment_id = ANY($1::uuid[])"""


async def commands_with_long_numbers(invoice: Database) -> AsyncIterator[list[UUID]]:
    """The commands whose content hash is over long numbers, some at a time."""
    some: list[UUID] = []
    async with invoice.transaction() as tx:
        async for row in tx.cursor(_WITH_LONG_NUMBERS, prefetch=HASHES_MAX):
            some.append(row["command_id"])
            if len(some) == HASHES_MAX:
                yield some
                some = []
    if some:
        yield some


async def forget_content(tx: Connection, command_ids: Collection[UUID]) -> None:
    """Leave only the outlines of these commands."""
    await tx.execute(_FORGET_CONTENT, list(command_ids))


async def forget_command_of_event(tx: Connection, stream_id: str, version: int, cleaner: Cleaner) -> None:
    """Take away the hashes of the command that caused this event."""
    await _forget(tx, [row["cause_id"] for row in await tx.fetch(_OF_EVENT, stream_id, version)], cleaner)


async def forget_commands_of_payments(tx: Connection, payment_ids: Collection[UUID], cleaner: Cleaner) -> None:
    """Take away the hashes of the commands that asked for these payments: they may hold more than their events do."""
    await _forget(tx, [row["cause_id"] for row in await tx.fetch(_OF_PAYMENTS, list(payment_ids))], cleaner)


async def _forget(tx: Connection, command_ids: Collection[UUID], cleaner: Cleaner) -> None:
    await tx.execute(_FORGET, list(command_ids), cleaner.number is not None)
