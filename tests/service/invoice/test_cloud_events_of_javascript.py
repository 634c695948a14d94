"""Events of the official CloudEvents SDK for JavaScript, sent by amqplib in both modes, are commands as any other."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from shared.contracts import schemas
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.contracts.invoice import CommandAnswered, IssueInvoice
from shared.messaging.topology import COMMAND_ENTRY
from tests.support import node
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

SEND = """
const amqp = require('amqplib');
const { CloudEvent, HTTP } = require('cloudevents');
const FORMS = {
  structured: (event) => HTTP.structured(event),
  binary: (event) => HTTP.binary(event),
  native: (event) => {
    const { headers, body } = HTTP.binary(event);
    const time = { '!': 'timestamp', value: Math.floor(Date.parse(event.time) / 1000) };
    return { headers: { ...headers, 'ce-time': time, 'ce-retries': event.retries, 'ce-urgent': event.urgent }, body };
  },
  cased: (event) => {
    const { headers, body } = HTTP.binary(event);
    const cased = (name) => name.replace(/^ce-(.)/, (_, first) => `Ce-${first.toUpperCase()}`);
    const named = Object.entries(headers).map(([name, value]) => [cased(name), value]);
    return { headers: Object.fromEntries(named), body };
  },
  ofAmqp: (event) => {
    const { headers, body } = HTTP.binary(event);
    const named = Object.entries(headers).map(([name, value]) => [name.replace(/^ce-/, 'cloudEvents:'), value]);
    return { headers: Object.fromEntries(named), body };
  },
};
(async () => {
  const connection = await amqp.connect(given.url);
  const channel = await connection.createConfirmChannel();
  const returned = [];
  channel.on('return', (message) => returned.push(message.properties.messageId));
  for (const { form, event } of given.commands) {
    const { headers, body } = FORMS[form](new CloudEvent(event));
    const { 'content-type': contentType, ...rest } = headers;
    channel.publish(given.exchange, event.type, Buffer.from(body), {
      contentType, messageId: event.id, replyTo: given.replyTo, persistent: true, mandatory: true,
      headers: form === 'structured' ? {} : rest,
    });
  }
  await channel.waitForConfirms();
  await connection.close();
  process.stdout.write(JSON.stringify(returned));
})();
"""
READ = """
const { HTTP } = require('cloudevents');
const read = given.map(({ properties, body }) =>
  HTTP.toEvent({ headers: { 'content-type': properties.content_type }, body: JSON.stringify(body) }));
process.stdout.write(JSON.stringify(read.map((event) => [event.validate(), event.id, event.type, event.data])));
"""
FORMS = ("structured", "binary", "native", "cased", "ofAmqp")


def command(number: int) -> dict[str, Any]:
    data = IssueInvoice(invoice_id=f"INV/{number}", customer_id="ann@example.com", amount_minor=500, currency="EUR")
    return {
        "id": str(UUID(int=number)),
        "type": IssueInvoice.wire_name,
        "source": "/javascript",
        "time": "2026-11-28T12:00:00.000Z",
        "datacontenttype": "application/json",
        "retries": 3,
        "urgent": True,
        "data": data.model_dump(mode="json"),
    }


@pytest.mark.timeout(node.INSTALLED_WITHIN_S)
@pytest.mark.usefixtures("invoice")
async def test_both_modes_of_the_sdk_are_commands_as_any_other(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """With a time and extension attributes as texts and as AMQP has them, and header names in any case."""
    commands = [{"form": form, "event": command(number)} for number, form in enumerate(FORMS, 1)]
    inbox = await upstream.inbox()
    given = {"url": environment.rabbitmq_url, "exchange": COMMAND_ENTRY, "replyTo": inbox.name, "commands": commands}
    folder = await asyncio.to_thread(node.modules, "cloudevents", "amqplib")
    assert await asyncio.to_thread(node.run, folder, SEND, given) == []
    answers = [received.content for received in await inbox.take(len(FORMS))]
    asked = [UUID(int=number) for number in range(1, len(FORMS) + 1)]
    assert sorted(answers, key=str) == [CommandAnswered(command_id=id_, answer="accepted") for id_ in asked]


@pytest.mark.timeout(node.INSTALLED_WITHIN_S)
def test_the_sdk_understands_us() -> None:
    names = (CommandAnswered.wire_name, "remit.invoice.InvoicePaid.v1")
    golden = [schemas.golden_of(BY_WIRE_NAME[name])[0] for name in names]
    read = node.run(node.modules("cloudevents", "amqplib"), READ, golden)
    assert read == [[True, one["body"]["id"], one["body"]["type"], one["body"]["data"]] for one in golden]
