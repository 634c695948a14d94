"""The build before kept its refund in the payment's row: the migration carries such refunds over; later ones are read, then carried."""

import runpy
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from deploy.local.stack import Stack
from services.payment_gateway import store
from services.payment_gateway.domain import PaymentStatus
from services.payment_gateway.refunds import PaymentRefundStatus
from shared.persistence.database import Connection, Database
from shared.persistence.migrate import migrate
from tests.support.environment import ROOT

FOLDER = ROOT / "services" / "payment_gateway" / "migrations"
PRE, POST = "0007_pre_refunds.py", "0009_post_refunds.py"
STATES: dict[str, tuple[str, str | None]] = {
    "refunding": ("at_work", None),
    "refund_in_doubt": ("at_work", None),
    "refund_failed": ("at_work", None),
    "refund_failed, decided": ("kept", "ann"),
    "refunded": ("refunded", None),
}
"""What becomes of a payment of the build before in each state: the status of its refund, and who decided."""


@pytest.fixture
def url(stack: Stack) -> Iterator[str]:
    name = f"test_refund_rows_{uuid.uuid4().hex[:8]}"
    try:
        yield stack.create_database(name)
    finally:
        stack.drop_database(name)


async def insert(connection: Connection, state: str) -> UUID:
    """A row as the build before wrote it."""
    status, _, decided = state.partition(", ")
    id_ = uuid.uuid4()
    await connection.execute(
        """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, status, version, gateway_id, receipt_number, refund_id,
               decided_by, was_case, rung, key_number, cause_id, correlation_id, fence)
           VALUES ($1, 'INV-1', 1250, 'EUR', $2, 5, 'pi_1', 'ch_1', $3, $4, false, 0, 1, $1, 'c', 1)""",
        *(id_, status, "re_1" if status == "refunded" else None, "ann" if decided else None),
    )
    return id_


async def test_refunds_of_the_build_before_are_carried_over(url: str, tmp_path: Path) -> None:
    for file in sorted(FOLDER.glob("0*.py")):
        if file.name < PRE:
            shutil.copy(file, tmp_path)
    await migrate(url, tmp_path, post=True)
    connection = await asyncpg.connect(url, timeout=10)
    database = await Database.open(url, name="test", connections_max=1)
    try:
        early = {state: await insert(connection, state) for state in STATES}
        captured = await insert(connection, "captured")
        shutil.copy(FOLDER / PRE, tmp_path)
        await migrate(url, tmp_path)
        await connection.execute(
            "ALTER TABLE payments ADD requested_at timestamptz;"
            "ALTER TABLE refunds ADD asked_by text, ADD made_elsewhere boolean NOT NULL DEFAULT false"
        )  # later steps; this build reads them
        # An instance of the build before is still at work: it begins refunds, and ends one that was carried over.
        late = {state: await insert(connection, state) for state in STATES}
        await connection.execute(
            "UPDATE payments SET status = 'refunded', refund_id = 're_2', version = 6 WHERE payment_id = $1",
            early["refunding"],
        )
        async with database.transaction() as tx:
            rows = await store.load(tx, [*early.values(), *late.values(), captured])
        expected = {early[state]: STATES[state] for state in STATES} | {late[state]: STATES[state] for state in STATES}
        expected[early["refunding"]] = ("refunded", None)
        read = {
            id_: (refund.status.value, refund.decided_by) for id_, row in rows.items() for refund in row.payment.refunds
        }
        assert read == expected
        assert rows[captured].payment.refunds == ()
        ended = rows[early["refunding"]].payment
        assert ended.status is PaymentStatus.REFUNDED
        (refund,) = ended.refunds
        assert (refund.status, refund.amount_minor, refund.gateway_id) == (PaymentRefundStatus.REFUNDED, 1_250, "re_2")
        for file in sorted(FOLDER.glob("0*_post_*.py")):
            if file.name <= POST:
                shutil.copy(file, tmp_path)
        await migrate(url, tmp_path, post=True)
        stored = await connection.fetch("SELECT payment_id, refund_id, status, decided_by FROM refunds")
        assert {row["payment_id"]: (row["status"], row["decided_by"]) for row in stored} == expected
        assert all(row["refund_id"] == row["payment_id"] for row in stored)
    finally:
        await database.close()
        await connection.close()


SIDES: dict[str, tuple[str, int, bool]] = {
    "it had made none": ('{"answer": "no_refund"}', 6, True),
    "nothing was gone": ('{"answer": "captured", "refunded_minor": 0}', 6, True),
    "it had made it": ('{"answer": "refunded"}', 6, False),
    "a part was gone": ('{"answer": "captured", "refunded_minor": 1}', 6, False),
    "another outcome came since": ('{"answer": "no_refund"}', 7, False),
}
"""What the gateway had shown when a person called a refund made, the payment's version now, and whether it was made elsewhere."""


async def test_what_people_called_made_before_is_marked_if_the_gateway_had_not_made_it(url: str) -> None:
    await migrate(url, FOLDER, post=True)
    connection = await asyncpg.connect(url, timeout=10)
    try:
        ids = {name: await insert(connection, "captured") for name in SIDES}
        for name, (side, version, _) in SIDES.items():
            await connection.execute(
                "UPDATE payments SET gateway_side = $2::jsonb, version = $3 WHERE payment_id = $1",
                ids[name],
                side,
                version,
            )
            await connection.execute(
                """INSERT INTO refunds (payment_id, refund_id, position, reason, status, amount_minor, by_hand_minor, version, key_number,
                       decided_by) VALUES ($1, $2, 1, 'x', 'refunded', 40, 0, 6, 1, 'ann')""",
                ids[name],
                uuid.uuid4(),
            )
        for step, text in (
            ("0016_pre_mark_decided", "DECIDED_BEFORE"),
            ("0017_post_mark_decided", "DECIDED_MEANWHILE"),
        ):
            await connection.execute("UPDATE refunds SET made_elsewhere = false")
            await connection.execute(runpy.run_path(str(FOLDER / f"{step}.py"))[text])
            marked = await connection.fetch("SELECT payment_id FROM refunds WHERE made_elsewhere")
            assert {row["payment_id"] for row in marked} == {
                ids[name] for name, (*_, is_marked) in SIDES.items() if is_marked
            }
    finally:
        await connection.close()
