"""The first paid invoice, with the kit: REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F python first.py INV-1"""

import asyncio
import os
import sys

from remit_kit import Paid, Remit, Token


async def main(invoice: str) -> None:
    async with Remit(os.environ["REMIT_URL"]) as remit:
        await remit.issue(invoice, customer_id="C-1", amount_minor=12500, currency="EUR")
        outcome = await remit.pay(invoice, amount_minor=12500, currency="EUR", method=Token("pm_card_visa"))
    print(f"paid, receipt {outcome.receipt_number}" if isinstance(outcome, Paid) else f"not charged: {outcome.reason}")


asyncio.run(main(sys.argv[1]))
