"""Checks that senders were kept apart: each command was answered once and to its sender, and changed no invoice of another one."""

from uuid import UUID

from services.audit.finding import Tally
from services.audit.routes import kept_as
from services.audit.stores import Stores

_OF_A_SENDER = """
    SELECT command_id, sender, sent_id, answered_at FROM answers WHERE sender IS NOT NULL OR sent_id IS NOT NULL ORDER BY command_id"""
_ANSWERED_TWICE = """
    SELECT coalesce(sent_id, command_id) AS sent_id, sender, count(*) AS times FROM answers
    WHERE reason IS NULL OR reason NOT IN ('clear_card_number', 'cvv_not_accepted')
    GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1"""
_OF_ANOTHER = """
    SELECT a.command_id, a.sender, a.sent_id, a.invoice_id, i.owner, a.answered_at FROM answers a JOIN invoices i USING (invoice_id)
    WHERE a.answer = 'accepted' AND a.sent_id IS NOT NULL AND i.owner IS NOT NULL AND a.sender IS DISTINCT FROM i.owner
    ORDER BY a.command_id"""
"""Of commands whose sender had to have a name: they are kept under another id than their own."""


async def senders_kept_apart(counted: Tally, stores: Stores) -> None:
    """Every answer is kept under the id of its sender's command, and no sender paid, voided or refunded an invoice of another."""
    invoices = stores.databases.get("invoice")
    if invoices is None:
        return
    counted.look(await invoices.value("SELECT count(*) FROM answers"))
    async for row in invoices.rows(_OF_A_SENDER):
        told: UUID = row["sent_id"] or row["command_id"]
        if row["command_id"] not in kept_as(told, row["sender"]):
            why = f"its answer is kept as {row['command_id']}, which is not of {row['sender'] or 'a sender without a name'}"
            counted.breach(told, why, since=row["answered_at"])
    async for row in invoices.rows(_ANSWERED_TWICE):
        counted.breach(
            row["sent_id"], f"the command of {row['sender'] or 'a sender without a name'} has {row['times']} answers"
        )
    async for row in invoices.rows(_OF_ANOTHER):
        if not any({row["sender"], row["owner"]} <= group for group in stores.sender_groups):
            why = f"a command of {row['sender']} changed {row['invoice_id']}, which belongs to {row['owner']}"
            counted.breach(row["sent_id"], why, since=row["answered_at"])
