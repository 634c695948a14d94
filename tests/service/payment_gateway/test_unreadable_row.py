"""A row that this build cannot read, for instance because a newer one wrote it: messages about it wait, and others go on."""

import pytest

from shared.batch import worker
from shared.messaging.consumer import ACK_AT
from tests.service.payment_gateway.conftest import PaymentGatewayFixture, Start, asked, kind, requested
from tests.support.databases import execute
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until


async def test_messages_about_it_wait_until_it_can_be_read_and_others_go_on(
    start: Start, upstream: UpstreamClient, payments: PaymentGatewayFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "POSTPONE_S", 0.05)
    events, newer, ours = await upstream.tap("payment.events"), requested(), requested()
    async with start():
        for one in (newer, ours):
            await upstream.send(one)
            await events.next()
        await execute(
            payments.url, "UPDATE payments SET status = 'of_tomorrow' WHERE payment_id = $1", newer.payment_id
        )
        question = await upstream.send(asked(newer.payment_id))
        neighbours = [await upstream.send(asked(ours.payment_id)) for _ in range(2 * ACK_AT)]
        await payments.until_handled(*neighbours)
        await payments.until_handled(await upstream.send(asked(ours.payment_id)))
        answer = await events.next()
        await payments.outbox_is_empty()  # else an answer may come again after the restart
    assert answer.data["payment_id"] == str(ours.payment_id)
    await depth_is(upstream, "payment_gateway.commands", 1)  # the broker keeps what was not acknowledged
    events = await upstream.tap("payment.events")
    async with start():
        await execute(payments.url, "UPDATE payments SET status = 'captured' WHERE payment_id = $1", newer.payment_id)
        await payments.until_handled(question)
        answer = await events.next()
    assert (answer.data["payment_id"], kind(answer.type)) == (str(newer.payment_id), "PaymentCaptured")
    await depth_is(upstream, "payment_gateway.commands", 0)
    await depth_is(upstream, "dead-letters", 0)


async def depth_is(upstream: UpstreamClient, queue: str, messages: int) -> None:
    async def stands() -> bool:
        return await upstream.depth(queue) == messages

    await until(stands, what=f"{messages} messages in {queue}")
