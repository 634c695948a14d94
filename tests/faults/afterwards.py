"""A payment's life after its outcome (row 19): the gateway, its dashboard or a bank changes what was settled. Nothing of it stays unseen,
and people settle it. Days pass in seconds."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from deploy.demo.scenes import Stage
from deploy.sandbox.faults import Deed
from shared.contracts.invoice import PayInvoice
from tests.faults.testbed import Testbed
from tests.faults.trial import Note, Trial
from tests.support.databases import execute, rows

FAMILY: Final = "afterwards"
LOOKS: Final[dict[str, Any]] = {
    "GATEWAY_WATCH_S": "0.5",
    "GATEWAY_REFUND_LOOKS_S": "0.3,0.3,0.3",
    "GATEWAY_CANCEL_LOOKS_S": "0.5",
    "GATEWAY_CAPTURE_LOOKS_S": "0.5",
    "GATEWAY_REMIND_S": "2",
}
"""Settings by which settled payments are looked at after seconds and not after days."""
LOCKED_S: Final = 10.0
"""How long the gateway may keep its ledger locked."""
KILLS: Final = 4
BETWEEN_KILLS_S: Final = 1.0
SETTLED_BY: Final = {
    "pm_remit_disputed": ("captured", "captured"),
    "pm_remit_dispute_lost": ("refunded", "refunded"),
    "pm_remit_refunded_there": ("refunded", "refunded"),
    "pm_remit_partly_refunded_there": ("captured", "captured"),
}
"""For each token what a person decides, and what becomes of the payment."""
OF_ANOTHER_AMOUNT: Final = ("pm_remit_partial_capture", "pm_remit_over_capture")

Run = Callable[[Testbed, Note], Awaitable[None]]


async def contradicted(testbed: Testbed, note: Note, *, kills: int = 0) -> None:
    """Paid invoices are disputed, given back and partly given back at the gateway. The looks find it, and a person settles each."""
    payments = {token: await _pay(testbed, token) for token in SETTLED_BY}
    for _ in range(kills):
        await asyncio.sleep(BETWEEN_KILLS_S)
        await testbed.kill("payment_gateway")
        await testbed.start("payment_gateway", **LOOKS)
    for token, payment in payments.items():
        resolution, _ = SETTLED_BY[token]
        await _decide(testbed, payment, resolution, await _case(testbed, payment, "needs_decision"))
    for token, payment in payments.items():
        await _until(testbed, payment, SETTLED_BY[token][1])
    note.fired(len(payments) + kills)


async def another_amount(testbed: Testbed, note: Note) -> None:
    """The gateway captures less, and more, than it was asked for. Nothing is booked, and a person gives it back."""
    payments = [await _pay(testbed, token) for token in OF_ANOTHER_AMOUNT]
    for payment in payments:
        version = await _case(testbed, payment, "needs_decision")
        booked = await _resolve(testbed, payment, "captured", version)
        assert booked != 0, "a capture of another amount was booked"
        await _decide(testbed, payment, "give_back", version)
    for payment in payments:
        await _until(testbed, payment, "refunded")
    note.fired(len(payments))


async def captured_after_a_cancel(testbed: Testbed, note: Note) -> None:
    """What was declined and cancelled is captured after all. The look finds it, and the saga has it given back."""
    await _until(testbed, await _pay(testbed, "pm_remit_captured_after_cancel"), "refunded")
    note.fired()


async def sent_back(testbed: Testbed, note: Note) -> None:
    """A bank sends a refund back after it had succeeded. It is a case again, and a person keeps the money."""
    payment = await _pay(testbed, "pm_remit_captured_after_cancel__refund_fails_later")
    await _decide(testbed, payment, "not_refunded", await _case(testbed, payment, "refund_failed"))
    await _until(testbed, payment, "refund_failed")
    note.fired()


async def rotated(testbed: Testbed, note: Note) -> None:
    """A person decides `not charged` while the key is rotated. Once the gateway answers, it shows a capture, which goes back."""
    payment = await _pay(testbed, "pm_remit_never_answers")
    version = await _case(testbed, payment, "needs_decision")
    await asyncio.to_thread(testbed.system.sandbox.mode, "unauthorised")
    await _decide(testbed, payment, "not_charged", version)
    await _until(testbed, payment, "not_charged")
    await asyncio.to_thread(answer_again, testbed, payment)
    await asyncio.to_thread(testbed.system.sandbox.mode, "normal")
    await _until(testbed, payment, "refunded")
    note.fired()


async def reopened(testbed: Testbed, note: Note) -> None:
    """A wrong decision is taken back and decided anew while the gateway is silent; what was captured goes back."""
    payment = await _pay(testbed, "pm_remit_never_answers")
    await _decide(testbed, payment, "not_charged", await _case(testbed, payment, "needs_decision"))
    decided = await _case(testbed, payment, "not_charged")
    words = ("--version", str(decided), "--reason", "the bank's statement shows it", "--who", "faults")
    done = await (await testbed.remit("payments", "reopen", str(payment.payment_id), *words)).result()
    assert done.code == 0, done
    await _decide(testbed, payment, "captured", await _case(testbed, payment, "needs_decision"))
    await asyncio.to_thread(answer_again, testbed, payment)
    await _until(testbed, payment, "refunded")
    note.fired()


async def asked(testbed: Testbed, note: Note) -> None:
    """Nobody looks at captures. A person who hears of a dispute has the gateway asked, and settles the case that it becomes."""
    await testbed.restart("payment_gateway")
    payment = await _pay(testbed, "pm_card_visa")
    (intent,) = testbed.system.sandbox.show(str(payment.payment_id))["payment_intents"]
    await asyncio.to_thread(testbed.system.sandbox.do, Deed.DISPUTE, intent["id"])
    about = (str(payment.payment_id), "--invoice", payment.invoice_id, "--who", "faults")
    done = await (await testbed.remit("payments", "ask", *about)).result()
    assert done.code == 0, done
    await _decide(testbed, payment, "captured", await _case(testbed, payment, "needs_decision"))
    await _until(testbed, payment, "captured")
    note.fired()


async def forgotten(testbed: Testbed, note: Note) -> None:
    """The payment-gateway service dies after the card was charged, its database is restored to before that, and the gateway has deleted our
    idempotency keys. The request comes again, and finds its charge."""
    await testbed.played()
    await testbed.restart("payment_gateway", REMIT_FAULT="charging.after_execute:1:stop")
    payment = await _asked_to_pay(testbed, "pm_card_visa")

    async def charged() -> bool:
        shown = await asyncio.to_thread(testbed.system.sandbox.show, str(payment.payment_id))
        return bool(shown["charges"])

    await testbed.until(charged, what="the charge")
    await testbed.kill("payment_gateway")
    of_request = "DELETE FROM inbox WHERE message_id IN (SELECT cause_id FROM payments WHERE payment_id = $1)"
    await execute(testbed.database("payment_gateway"), of_request, payment.payment_id)
    for table in ("attempts", "outcomes", "payments"):
        of_payment = f"DELETE FROM {table} WHERE payment_id = $1"
        await execute(testbed.database("payment_gateway"), of_payment, payment.payment_id)
    await asyncio.to_thread(_forget_keys, testbed.system.ledger, payment)
    await testbed.start("payment_gateway", **LOOKS, GATEWAY_FIND_AFTER_S="0")
    await _until(testbed, payment, "captured")
    note.fired()


def _forget_keys(ledger: Path, payment: PayInvoice) -> None:
    """The gateway deletes keys after 24 hours."""
    with closing(sqlite3.connect(ledger, timeout=LOCKED_S)) as connection, connection:
        connection.execute("DELETE FROM idempotency_keys WHERE key LIKE ?", (f"{payment.payment_id}:%",))


# -- steps -------------------------------------------------------------------------------------------------------------------------------


async def _asked_to_pay(testbed: Testbed, token: str) -> PayInvoice:
    """Issue an invoice and ask to pay it with this token."""
    keys: Any = testbed.system.public_keys["keys"]
    stage = Stage(testbed.upstream, keys[0])
    invoice_id = f"{testbed.name}-{token}-{testbed.number()}"
    await stage.issue(invoice_id)
    command = stage.pay(invoice_id, token)
    await testbed.upstream.ask(command)
    return command


async def _pay(testbed: Testbed, token: str) -> PayInvoice:
    """Pay an invoice with this token, until the payment has an outcome or waits for a person."""
    command = await _asked_to_pay(testbed, token)

    async def ended() -> bool:
        query = """SELECT 1 FROM payments WHERE payment_id = $1
            AND status NOT IN ('requested', 'prepared', 'cancelling', 'in_doubt')"""  # it may have gone on since
        return bool(
            await testbed.until_answered(lambda: rows(testbed.database("payment_gateway"), query, command.payment_id))
        )

    await testbed.until(ended, what=f"an outcome of {token}")
    return command


async def _case(testbed: Testbed, payment: PayInvoice, status: str) -> int:
    """The version of the case once it stands so."""
    found: list[int] = []

    async def stands() -> bool:
        query = "SELECT version FROM cases WHERE payment_id = $1 AND status = $2"
        read = await testbed.until_answered(lambda: rows(testbed.database("staff"), query, payment.payment_id, status))
        found[:] = [row["version"] for row in read]
        return bool(found)

    await testbed.until(stands, what=f"a case {status}")
    return found[0]


async def _resolve(testbed: Testbed, payment: PayInvoice, resolution: str, version: int) -> int:
    words = ("--evidence", "seen in the gateway's dashboard", "--reason", "fault run", "--who", "faults")
    receipt = ("--receipt", "seen-1") if resolution == "captured" else ()
    about = (str(payment.payment_id), resolution, "--version", str(version))
    return (await (await testbed.remit("payments", "resolve", *about, *words, *receipt)).result()).code


async def _decide(testbed: Testbed, payment: PayInvoice, resolution: str, version: int) -> None:
    code = await _resolve(testbed, payment, resolution, version)
    assert code == 0, f"{resolution} of {payment.payment_id} at version {version} was refused"


async def _until(testbed: Testbed, payment: PayInvoice, status: str) -> None:
    """Wait until the payment is settled so, in both services, and no case of it is open."""

    async def stands() -> bool:
        here = "SELECT 1 FROM payments WHERE payment_id = $1 AND status = $2"
        cases = "SELECT status FROM cases WHERE payment_id = $1"
        settled = await testbed.until_answered(
            lambda: rows(testbed.database("payment_gateway"), here, payment.payment_id, status)
        )
        known = await testbed.until_answered(lambda: rows(testbed.database("staff"), cases, payment.payment_id))
        return bool(settled) and not any(row["status"] in _OPEN for row in known)

    await testbed.until(stands, what=f"the payment {payment.payment_id} to be {status}")


_OPEN: Final = ("in_doubt", "needs_decision", "refund_in_doubt", "refund_failed")


def answer_again(testbed: Testbed, payment: PayInvoice) -> None:
    """The gateway answers again about this payment."""
    for intent in testbed.system.sandbox.show(str(payment.payment_id))["payment_intents"]:
        testbed.system.sandbox.do(Deed.HEAL, intent["id"])


def trials() -> Sequence[Trial]:
    """Each change of mind alone; and the contradictions while the service that looks is killed again and again."""
    runs: dict[str, Run] = {
        "contradicted": contradicted,
        "contradicted-killed": partial(contradicted, kills=KILLS),
        "another-amount": another_amount,
        "captured-after-cancel": captured_after_a_cancel,
        "refund-sent-back": sent_back,
        "decided-while-rotated": rotated,
        "reopened": reopened,
        "forgotten": forgotten,
        "asked": asked,
    }
    return [_trial(name, run) for name, run in runs.items()]


def _trial(name: str, act: Run) -> Trial:
    async def run(testbed: Testbed, note: Note) -> None:
        await testbed.restart("payment_gateway", **LOOKS)
        testbed.play()
        await act(testbed, note)
        await testbed.played()
        note.mended()

    told = act.func if isinstance(act, partial) else act
    more = f" The payment-gateway service is killed {KILLS} times meanwhile." if isinstance(act, partial) else ""
    return Trial(
        f"{FAMILY}/{name}",
        FAMILY,
        f"{told.__doc__}{more}",
        run,
        estimate_s=30.0,
        touches=frozenset({"payment_gateway", "staff"}),
        short=name == "another-amount",
    )
