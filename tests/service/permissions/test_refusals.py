"""A service whose user or role lacks a right, or has a wrong password, says which and what to do; its work waits and goes on by itself."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp
import pytest
from structlog.testing import capture_logs

from services.saga.__main__ import MIGRATIONS, assemble
from shared.amqp.broker_link import AccessRefusedError, BrokerLink
from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract
from shared.messaging.apply import TopologyError, apply_topology
from shared.messaging.codec import encode
from shared.messaging.consumer import Consumer
from shared.messaging.envelope import Cause, Draft, Outgoing
from shared.messaging.publisher import Publisher
from shared.observability.health import Readiness
from shared.service import Runtime, serve
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.ports import free_port
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

ADVICE = "`remit permissions` shows what each"


def message(data: Contract) -> Outgoing:
    return encode(Draft(data), Cause(uuid4(), "c", datetime(2026, 1, 1, tzinfo=UTC)), 0, source="test")


COMMAND = invoice.IssueInvoice(invoice_id="INV-1", customer_id="C-1", amount_minor=5, currency="EUR")
INQUIRY = payment_gateway.InquirePayment(invoice_id="INV-1", payment_id=uuid4())


@pytest.fixture(autouse=True)
def _ours(environment: Environment) -> None:
    if environment.stack.kind == "given":
        pytest.skip("the users of given servers are not ours")


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[BrokerLink]:
    link = BrokerLink(url, name="test")
    try:
        yield link
    finally:
        await link.close()


async def reason(readiness: Readiness, component: str) -> str:
    async def given() -> str | None:
        return readiness.reasons.get(component)

    return await until(given, what=f"{component} to say why") or ""


# -- the broker --------------------------------------------------------------------------------------------------------------------------


async def test_a_publisher_without_the_permission_names_it_and_goes_on_with_what_it_may_publish(
    environment: Environment,
) -> None:
    forbidden, allowed = message(COMMAND), message(INQUIRY)
    async with linked(environment.stack.rabbitmq_url_of("saga")) as link:
        publisher = Publisher(link)
        with capture_logs() as logs:
            published = await publisher.publish([forbidden, allowed])
    vhost = environment.stack.vhost
    assert (published.refused, published.confirmed) == ([forbidden.id], [allowed.id])
    (said,) = [entry for entry in logs if entry["event"] == "publish_not_permitted"]
    assert said["log_level"] == "error"
    assert (
        f"user saga may not write to exchange invoice.commands.entry in virtual host {vhost}; {ADVICE}"
        in said["detail"]
    )


async def test_a_consumer_without_the_permission_names_it(environment: Environment) -> None:
    readiness = Readiness()
    async with linked(environment.stack.rabbitmq_url_of("saga")) as link:
        consumer = Consumer(link, "invoice.commands", readiness=readiness)
        running = asyncio.create_task(consumer.run())
        said = await reason(readiness, "consumer invoice.commands")
        await consumer.stop()
        await running
    assert "user saga may not read from queue invoice.commands in virtual host" in said
    assert ADVICE in said


async def test_a_wrong_password_is_no_outage_of_the_broker(environment: Environment) -> None:
    readiness = Readiness()
    url = environment.stack.rabbitmq_url_of("saga")
    async with linked(url.replace("saga:", "saga:not-")) as link:
        await Publisher(link, readiness).publish([message(INQUIRY)])
    assert "RABBITMQ_URL: the broker refuses this user name and password" in readiness.reasons["publisher"]


async def test_a_virtual_host_that_is_not_there_is_no_outage_of_the_broker(environment: Environment) -> None:
    async with linked(environment.stack.rabbitmq_url_of("saga").rpartition("/")[0] + "/missing") as link:
        with pytest.raises(AccessRefusedError, match="RABBITMQ_URL: the virtual host does not exist, or this user"):
            await link.channel(confirms=False)


async def test_only_the_set_up_applies_the_topology(environment: Environment) -> None:
    with pytest.raises(TopologyError, match=r"may not set up .*`remit permissions` shows"):
        await apply_topology(environment.stack.rabbitmq_url_of("saga"))


# -- the database ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("saga:", "saga:not-"), "are user and password of the database URL right?"),
        (("/saga", "/staff"), f"permission denied for database .*; {ADVICE} role needs"),
    ],
    ids=["password", "database of another service"],
)
async def test_until_a_refusal_has_stood_for_a_while_readiness_says_why(
    wrong: tuple[str, str], says: str, environment: Environment
) -> None:
    right = environment.settings("saga")
    scheme, _, rest = right.database_url.partition("://")
    settings = right.model_copy(
        update={"database_url": f"{scheme}://{rest.replace(*wrong)}", "health_port": free_port()}
    )
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve(settings, MIGRATIONS, assemble, stopping, mistake_stands_s=60))
    ready = f"http://127.0.0.1:{settings.health_port}/readyz"
    async with aiohttp.ClientSession() as session:

        async def told() -> str | None:
            try:
                async with session.get(ready) as answer:
                    reasons: dict[str, str] = (await answer.json())["reasons"]
            except aiohttp.ClientError:
                return None
            return reasons.get("database")

        said = await until(told, what="readiness to say why")
    stopping.set()
    assert await serving == 0
    assert re.search(says, said or "")


async def test_a_batch_waits_for_a_right_that_is_missing_and_is_handled_once_it_is_given(
    environment: Environment, upstream: UpstreamClient
) -> None:
    runtimes: list[Runtime] = []

    async def watched(runtime: Runtime) -> None:
        runtimes.append(runtime)
        await assemble(runtime)

    fact = payment_gateway.PaymentDeclined(invoice_id="INV-1", payment_id=uuid4(), version=3, reason="card_declined")
    try:
        async with environment.running("saga", watched):

            async def consumes() -> bool:
                return bool(runtimes) and runtimes[0].consumers[0].has_consumed

            await until(consumes, what="the service to consume")
            await execute(environment.databases["saga"], "REVOKE INSERT ON transitions FROM saga")
            await upstream.send(fact, queue="saga.events")

            async def waits() -> str | None:
                return runtimes[0].readiness.reasons.get("database saga.events") if runtimes else None

            said = await until(waits, what="the batch to wait") or ""
            await execute(environment.databases["saga"], "GRANT INSERT ON transitions TO saga")

            async def handled() -> bool:
                return bool(await rows(environment.databases["saga"], "SELECT 1 FROM transitions"))

            await until(handled, what="the batch to be handled")
    finally:
        await execute(environment.databases["saga"], "GRANT INSERT ON transitions TO saga")
    assert "permission denied for table transitions / 42501; role saga lacks INSERT on transitions; " in said
    assert f"{ADVICE} role needs" in said
    assert await upstream.depth("dead-letters") == 0
