"""Sends a command as any upstream system would: with plain aio-pika, a private queue for the answer, and only our message models."""

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import aio_pika
import orjson
from aio_pika.exceptions import DeliveryError
from pydantic import ValidationError

from deploy.cli.history import HISTORY, note, open_history
from deploy.cli.output import MISUSED, fail
from shared.amqp.broker_link import ADVICE, BROKER_ERRORS, ChannelAccessRefused, access_refused, user_in
from shared.clock import system_clock
from shared.contracts.invoice import UpstreamCommand
from shared.contracts.mistakes import mistakes
from shared.ids import new_id
from shared.messaging.codec import STRUCTURED, Malformed, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

CONNECT_TIMEOUT_S = 10.0
CONFIRM_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class CommandReply:
    """The terminal answer; `reason` is a code for programs, `detail` a sentence for people."""

    command_id: UUID
    answer: str
    reason: str | None
    detail: str | None


def read_command(contract: type[UpstreamCommand], values: "Mapping[str, object]") -> UpstreamCommand:
    """The command with these values. Fails with the field's name if the services would not take a value."""
    try:
        return contract.model_validate(dict(values))
    except ValidationError as error:
        fail(f"{mistakes(error)}.", MISUSED)


async def send(url: str, command: UpstreamCommand, command_id: UUID, *, wait_s: float) -> CommandReply | None:
    """Publish with a confirm and `mandatory`, and wait for the answer; None if none came within `wait_s` seconds.

    Once the broker has confirmed the command it will be handled, even if no answer is received here. A command that no service would take,
    for example because it holds card data, is refused before it leaves this process.
    """
    body = _body(command, command_id)
    if isinstance(refused := decode(body, content_type=STRUCTURED), Malformed):
        fail(f"{refused.detail}.", MISUSED)
    history = open_history(os.environ.get(HISTORY))
    try:
        connection = await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S)
    except BROKER_ERRORS as error:
        fail(str(access_refused(error) or f"RABBITMQ_URL: the broker does not answer ({type(error).__name__})."))
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        user = user_in(url)  # it may declare queues that begin with its name and a dot (`remit permissions`)
        try:
            replies = await channel.declare_queue(
                f"{user}.answers.{new_id()}", exclusive=True, timeout=CONNECT_TIMEOUT_S
            )
        except ChannelAccessRefused:
            fail(f"RABBITMQ_URL: this user is no sender, which has queues of its own; {ADVICE}.")
        message = aio_pika.Message(
            body,
            content_type=STRUCTURED,
            message_id=str(command_id),
            correlation_id=str(command_id),
            reply_to=replies.name,
            user_id=user,
            type=command.wire_name,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        try:
            exchange = await channel.get_exchange(command.exchange, ensure=False)
            await exchange.publish(message, command.wire_name, mandatory=True, timeout=CONFIRM_TIMEOUT_S)
        except ChannelAccessRefused as error:
            fail(f"the command was not sent: {access_refused(error)}.")
        except DeliveryError:
            fail("no queue takes the command: run `remit topology apply`.")
        except BROKER_ERRORS as error:
            note(history, command_id, command.wire_name, confirmed=False)
            fail(
                f"the broker did not confirm the command ({type(error).__name__}); "
                f"whether it arrived is not known: send it again with --id {command_id}, which is harmless."
            )
        note(history, command_id, command.wire_name, confirmed=True)
        return await _answer(replies, wait_s) if wait_s > 0 else None


def _body(command: UpstreamCommand, command_id: UUID) -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": str(command_id),
            "type": command.wire_name,
            "source": "/remit/cli",
            "subject": command.subject(),
            "time": system_clock(),
            "datacontenttype": "application/json",
            "data": command.model_dump(mode="json"),
        }
    )


async def _answer(replies: "AbstractQueue", wait_s: float) -> CommandReply | None:
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    await replies.consume(arrived.put, no_ack=True)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            data = orjson.loads((await arrived.get()).body)["data"]
            return CommandReply(UUID(data["command_id"]), data["answer"], data["reason"], data["detail"])
    return None
