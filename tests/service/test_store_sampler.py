"""What the gauges of the database show: what is stored, nothing while nobody knows, and no text of others."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.payment_gateway import store as payments
from services.payment_gateway.domain import OutcomeReason
from services.saga import store as sagas
from services.staff import store as cases
from services.staff.domain import CASE_REASONS
from shared.messaging.envelope import Lane, Outgoing
from shared.observability import metrics
from shared.observability.sampled import SampledGauge
from shared.persistence import outbox
from shared.persistence.database import Connection, Database
from shared.persistence.store_sampler import Gauged, Reading, StoreSampler
from shared.records import replace
from tests.support.databases import execute
from tests.support.environment import Environment

READINGS = {
    "invoice": (outbox.READING,),
    "payment_gateway": (outbox.READING, payments.DUE, payments.IN_DOUBT, payments.MONEY),
    "saga": (outbox.READING, sagas.AT_WORK),
    "staff": (outbox.READING, cases.OPEN_LETTERS, cases.OPEN_CASES),
}
Shown = dict[tuple[str, ...], float]


def shown(gauge: SampledGauge) -> Shown:
    """What the gauge shows, by the values of its labels. Ages are rounded to minutes, and zeros are left out."""
    (family,) = gauge.collect()
    ages = gauge.name.endswith("_seconds")
    values = {
        tuple(sample.labels[label] for label in gauge.labels): round(sample.value / 60) if ages else sample.value
        for sample in family.samples
    }
    return {labels: value for labels, value in values.items() if value}


@pytest.fixture(autouse=True)
def nothing_shown() -> None:
    for readings in READINGS.values():
        for reading in readings:
            reading.hide()


async def test_what_takes_long_is_read_more_rarely_and_often_enough(environment: Environment) -> None:
    times = iter((0.0, 0.1, 100.0, 103.0, 200.0, 260.0, 400.0, 400.1))
    async with database_of(environment, "saga") as database:
        sampler = StoreSampler(database, [sagas.AT_WORK], clock=lambda: next(times))
        intervals_s = [await sampler.run_once() for _ in range(4)]
    assert intervals_s == [15.0, 60.0, 240.0, 15.0]
    assert sampler.interval_s == 15.0, "what is waited after a failure"


@asynccontextmanager
async def database_of(environment: Environment, service: str) -> AsyncIterator[Database]:
    opened = await Database.open(environment.databases[service], name="test", connections_max=2)
    try:
        yield opened
    finally:
        await opened.close()


async def sample(environment: Environment, service: str, readings: Sequence[Reading] | None = None) -> None:
    async with database_of(environment, service) as database:
        await StoreSampler(database, READINGS[service] if readings is None else readings).run_once()


async def test_the_outbox_is_counted_by_lane(environment: Environment) -> None:
    url = environment.databases["saga"]
    message = Outgoing(UUID(int=1), "remit", "k", "t", "c", b"{}")
    async with database_of(environment, "saga") as database, database.transaction() as tx:
        for number in range(4):
            await outbox.insert(tx, [replace(message, id=UUID(int=number))])
    await execute(url, "UPDATE outbox SET created_at = now() - interval '7 minutes' WHERE ids[1] = $1", UUID(int=1))
    await execute(
        url,
        "UPDATE outbox SET sweep_after = 'infinity', created_at = now() - interval '1 day' WHERE ids[1] = $1",
        UUID(int=2),
    )
    await execute(
        url,
        "UPDATE outbox SET lane = 'public', created_at = now() - interval '3 minutes' WHERE ids[1] = $1",
        UUID(int=3),
    )
    await sample(environment, "saga")
    assert shown(metrics.OUTBOX_MESSAGES) == {("inside",): 2, ("public",): 1}
    assert shown(metrics.OUTBOX_OLDEST) == {("inside",): 7, ("public",): 3}
    assert shown(metrics.OUTBOX_QUARANTINED) == {("inside",): 1}
    await execute(url, "DELETE FROM outbox")
    await sample(environment, "saga")
    for lane in Lane:
        assert REGISTRY.get_sample_value("remit_outbox_oldest_seconds", {"lane": lane}) == 0, "nothing waits: known"


async def given_payment(url: str, status: str, amount_minor: int, currency: str, minutes: int, **more: object) -> UUID:
    payment_id = uuid4()
    await execute(
        url,
        """INSERT INTO payments (payment_id, invoice_id, amount_minor, currency, status, version, was_case, rung, key_number, cause_id,
               correlation_id, fence, gateway_id, receipt_number, decided_by, due_at, updated_at)
           VALUES ($1, 'INV-1', $2, $3, $4, 4, true, 1, 1, $1, 'c', 1, 'pi_1', 'r', $5, now() + interval '1 hour', now())""",
        payment_id,
        amount_minor,
        currency,
        status,
        more.get("decided_by"),
    )
    await execute(
        url,
        """INSERT INTO outcomes (payment_id, version, message_id, exchange, routing_key, type, correlation_id, body, recorded_at)
           VALUES ($1, 4, $1, 'e', 'k', 't', 'c', '', now() - make_interval(mins => $2))""",
        payment_id,
        minutes,
    )
    return payment_id


async def test_money_in_doubt_is_summed_by_currency(environment: Environment) -> None:
    url = environment.databases["payment_gateway"]
    await given_payment(url, "in_doubt", 1_250, "EUR", 5)
    await given_payment(url, "in_doubt", 100, "EUR", 9)
    await given_payment(url, "needs_decision", 700, "JPY", 20)
    await given_payment(url, "captured", 5_000, "EUR", 90)
    await given_payment(url, "refund_failed", 5_000, "EUR", 90, decided_by="ann")
    given_back = await given_payment(url, "refund_in_doubt", 90_000, "KWD", 2)
    await execute(
        url,
        """INSERT INTO refunds (payment_id, refund_id, position, reason, asked_minor, status, by_hand_minor, version, key_number)
           VALUES ($1, $1, 1, 'r', 1500, 'at_work', 0, 4, 1), ($1, gen_random_uuid(), 2, 'r', 80000, 'waiting', 0, 0, 1)""",
        given_back,
    )
    await sample(environment, "payment_gateway")
    assert shown(metrics.PAYMENTS_IN_DOUBT) == {("in_doubt",): 2, ("needs_decision",): 1, ("refund_in_doubt",): 1}
    assert shown(metrics.MONEY_IN_DOUBT) == {
        ("in_doubt", "EUR"): 13.5,
        ("needs_decision", "JPY"): 700,
        ("refund_in_doubt", "KWD"): 1.5,
    }
    assert shown(metrics.MONEY_IN_DOUBT_OLDEST) == {
        ("in_doubt", "EUR"): 9,
        ("needs_decision", "JPY"): 20,
        ("refund_in_doubt", "KWD"): 2,
    }
    await execute(url, "UPDATE payments SET status = 'captured'")
    await sample(environment, "payment_gateway")
    assert shown(metrics.PAYMENTS_IN_DOUBT) == {}
    labels = {"state": "in_doubt", "currency": "EUR"}
    assert REGISTRY.get_sample_value("remit_money_in_doubt", labels) == 0, "what was shown ends at 0"


async def test_due_payments_are_counted(environment: Environment) -> None:
    url = environment.databases["payment_gateway"]
    for minutes in (4, 2, -1):
        payment_id = await given_payment(url, "in_doubt", 100, "EUR", 1)
        statement = "UPDATE payments SET due_at = now() - make_interval(mins => $2) WHERE payment_id = $1"
        await execute(url, statement, payment_id, minutes)
    await sample(environment, "payment_gateway")
    assert (shown(metrics.PAYMENTS_DUE), shown(metrics.PAYMENTS_DUE_OLDEST)) == ({(): 2}, {(): 4})


async def test_sagas_at_work_are_counted_by_state_and_a_reminder_makes_none_younger(environment: Environment) -> None:
    url = environment.databases["saga"]
    ids = [uuid4() for _ in range(4)]
    for payment_id, status in zip(ids, ("settling", "settling", "in_doubt", "completed"), strict=True):
        await execute(
            url,
            """INSERT INTO sagas (payment_id, invoice_id, status, version, payment_version, failure_recorded, flagged, repeats, deadline,
                   updated_at) VALUES ($1, 'INV-1', $2, 2, 1, false, false, 0, 1, now())""",
            payment_id,
            status,
        )
        for version, before, minutes in ((1, "absent", 30), (2, status, 1)):
            await execute(
                url,
                """INSERT INTO transitions (payment_id, version, from_status, to_status, fact, cause_id, correlation_id, at)
                   VALUES ($1, $2, $3, $4, 'f', $1, 'c', now() - make_interval(mins => $5))""",
                payment_id,
                version,
                before,
                status,
                minutes,
            )
    await execute(url, "UPDATE transitions SET at = at - interval '1 hour' WHERE payment_id = $1", ids[2])
    await sample(environment, "saga")
    assert shown(metrics.SAGAS) == {("settling",): 2, ("in_doubt",): 1}
    assert shown(metrics.SAGAS_OLDEST) == {("settling",): 30, ("in_doubt",): 90}


async def test_a_reason_that_a_stranger_wrote_is_no_label(environment: Environment) -> None:
    url = environment.databases["staff"]
    for reason, status, minutes in (
        ("not_json", "open", 5),
        ("4111111111111111", "open", 9),
        ("remit_id_77", "open", 7),
        ("not_json", "replayed", 90),
    ):
        await execute(
            url,
            """INSERT INTO dead_letters (id, queue, origin, reason, tries, generation, headers, body, body_bytes, replays, seen, status,
                   first_seen, last_seen)
               VALUES (gen_random_uuid(), 'q', 'remit', $1, 1, 0, '{}', '', 0, 0, 1, $2, now() - make_interval(mins => $3), now())""",
            reason,
            status,
            minutes,
        )
    await sample(environment, "staff")
    assert shown(metrics.DEAD_LETTERS_OPEN) == {("not_json",): 1, ("other",): 2}
    assert shown(metrics.DEAD_LETTERS_OLDEST) == {("not_json",): 5, ("other",): 9}


async def test_open_cases_are_counted_by_state_and_reason(environment: Environment) -> None:
    for status, reason, minutes in (
        ("in_doubt", "no_readable_answer", 5),
        ("needs_decision", "disputed", 60),
        ("refund_failed", "expired_or_canceled_card", 7),
        ("captured", None, 90),
    ):
        await execute(
            environment.databases["staff"],
            """INSERT INTO cases (payment_id, invoice_id, correlation_id, status, version, reason, attempts_version, details, opened_at,
                   updated_at)
               VALUES (gen_random_uuid(), 'INV-1', 'c', $1, 1, $2, 0, $4, now() - make_interval(mins => $3), now())""",
            status,
            reason,
            minutes,
            json.dumps({}),
        )
    await sample(environment, "staff")
    ages = {
        ("in_doubt", "no_readable_answer"): 5,
        ("needs_decision", "disputed"): 60,
        ("refund_failed", "other"): 7,
    }
    assert shown(metrics.CASES_OLDEST) == ages
    assert shown(metrics.CASES_OPEN) == dict.fromkeys(ages, 1)
    await execute(environment.databases["staff"], "DELETE FROM cases")
    await sample(environment, "staff")
    labels = {"state": "needs_decision", "reason": "processing"}
    assert REGISTRY.get_sample_value("remit_cases_open", labels) == 0, "no case waits: known"


async def test_what_nobody_knows_is_not_shown(environment: Environment) -> None:
    broken = Reading("SELECT 1 AS value FROM nowhere", [Gauged(metrics.SAGAS_OLDEST, "value", max)])
    metrics.SAGAS_OLDEST.show({("settling",): 60.0})
    async with database_of(environment, "saga") as database:
        with capture_logs(), pytest.raises(Exception, match="nowhere"):
            await StoreSampler(database, [broken, sagas.AT_WORK, outbox.READING]).run_once()
    labels = {"state": "settling"}
    assert REGISTRY.get_sample_value("remit_outbox_messages", {"lane": "inside"}) == 0, "the others are read"
    assert REGISTRY.get_sample_value("remit_sagas", labels) == 0
    broken.hide()
    assert REGISTRY.get_sample_value("remit_sagas_oldest_seconds", labels) is None, "what it showed may not be true"
    assert REGISTRY.get_sample_value("remit_dead_letters_open", {"reason": "not_json"}) is None, "another service"


async def rows_looked_at(connection: Connection, reading: Reading) -> str:
    arguments = ", ".join(_literal(argument) for argument in reading.arguments)
    await connection.execute(f"PREPARE reading AS {reading.statement}")
    plan = await connection.fetch(f"EXPLAIN EXECUTE reading{f'({arguments})' if arguments else ''}")
    await connection.execute("DEALLOCATE reading")
    return "\n".join(str(row[0]) for row in plan)


def _literal(argument: object) -> str:
    if isinstance(argument, list):
        return f"'{{{','.join(map(_literal, argument))}}}'"
    return "NULL" if argument is None else str(argument)


@pytest.mark.parametrize("service", READINGS)
async def test_every_reading_goes_by_an_index(service: str, environment: Environment) -> None:
    async with database_of(environment, service) as database, database.connection() as connection:
        for reading in READINGS[service]:
            plan = await rows_looked_at(connection, reading)
            assert "Seq Scan on" not in plan, plan
            assert "Index" in plan, plan


def test_staff_know_the_reasons_that_the_payment_gateway_service_gives() -> None:
    assert set(OutcomeReason) == CASE_REASONS
