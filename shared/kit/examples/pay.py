"""Issue an invoice and pay it: a complete sender for Remit, in Python with pika.

    pip install pika joserfc
    REMIT_URL=amqp://USER:PASSWORD@HOST:5672/%2F python pay.py INV-1 pm_card_visa
    REMIT_URL=... CARD_PUBLIC_KEYS_FILE=keys.json python pay.py INV-2 card

It ends with 0 if the invoice was paid.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika
from joserfc import jwe
from joserfc.jwk import RSAKey
from joserfc.registry import HeaderParameter
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ProbableAuthenticationError

URL = os.environ["REMIT_URL"]
if len(sys.argv) != 3:
    sys.exit(f"usage: {sys.argv[0]} INVOICE TOKEN|card")
invoice, method = sys.argv[1:]
parameters = pika.URLParameters(URL)
user = parameters.credentials.username
# Answers and events come to one queue of ours. Its name begins with the name of our user at the broker, and a dot.
queue = f"{user}.pay-with-python"


def command(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """A message as CloudEvents JSON. It is made once: whenever we are in doubt we send it again, with the same id."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "type": f"remit.invoice.{name}.v1",
        "source": "/shop",
        "data": {"invoice_id": invoice, "amount_minor": 12500, "currency": "EUR", **data},
    }


# region card
def encrypt(card: dict[str, Any], payment_id: str) -> str:
    """The card for this one payment, under the newest of the published keys: the last one."""
    key = RSAKey.import_key(json.loads(Path(os.environ["CARD_PUBLIC_KEYS_FILE"]).read_text())["keys"][-1])
    binding = "remit.payment_id"
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": key.kid, "crit": [binding], binding: payment_id}
    registry = jwe.JWERegistry(
        {binding: HeaderParameter("The payment this card is for", "str")}, ["RSA-OAEP-256", "A256GCM"]
    )
    return jwe.encrypt_compact(header, json.dumps(card), key, registry=registry)


# endregion


payment_id = str(uuid4())
if method == "card":  # a test card: a real one comes from your customer, and is stored nowhere
    card = encrypt({"number": "4242424242424242", "exp_month": 12, "exp_year": 2034}, payment_id)
    pays = {"kind": "encrypted_card", "jwe": card}
else:
    pays = {"kind": "token", "token": method}

# A program that must survive its own crash stores these two before it sends them.
issue = command("IssueInvoice", {"customer_id": "C-1"})
pay = command("PayInvoice", {"payment_id": payment_id, "method": pays})
heard: dict[
    str, Any
] = {}  # what was told about us: answers by the id of their command, the outcome by the id of the payment


# region message
def publish(channel: BlockingChannel, event: dict[str, Any]) -> None:
    """Publish, and wait until the broker has it. Raises if it has not, or if no queue takes the message."""
    channel.basic_publish(
        "invoice.commands.entry",
        event["type"],
        json.dumps(event).encode(),
        pika.BasicProperties(
            content_type="application/cloudevents+json",
            message_id=event["id"],  # so that we are answered even if the body cannot be read
            user_id=user,  # the broker vouches for it: our invoices are ours alone
            reply_to=queue,
            delivery_mode=pika.DeliveryMode.Persistent,
        ),
        mandatory=True,
    )


# endregion


def wait_for(channel: BlockingChannel, about: str, seconds: float) -> Any:
    """What was told about a command or payment; None if nothing was in time."""
    if about in heard:
        return heard[about]
    for delivery, _, body in channel.consume(queue, inactivity_timeout=seconds):
        if delivery is None:
            break
        event = json.loads(body)
        data = event["data"]
        if event["type"] == "remit.invoice.CommandAnswered.v1":
            heard[data["command_id"]] = data
        elif event["type"] in {"remit.invoice.InvoicePaid.v1", "remit.invoice.InvoicePaymentFailed.v1"}:
            heard[data["payment_id"]] = event
        channel.basic_ack(delivery.delivery_tag)  # a program with a database stores it first
        if about in heard:
            break
    return heard.get(about)


def ask(channel: BlockingChannel, event: dict[str, Any]) -> None:
    """Send a command until it is answered: an answer can be lost, and a command that comes again gets the same one."""
    answer = None
    while answer is None:
        publish(channel, event)
        answer = wait_for(channel, event["id"], seconds=5)
    print(event["type"], answer["answer"], answer["reason"] or "")
    if answer["answer"] == "rejected":
        sys.exit(f"{answer['reason']}: {answer['detail']}")


def converse(channel: BlockingChannel) -> None:
    """All of it. Whatever breaks, it is begun again from the start: each command is done once."""
    channel.queue_declare(queue, durable=True)
    for name in ("InvoicePaid", "InvoicePaymentFailed"):
        channel.queue_bind(queue, "invoice.events", f"remit.invoice.{name}.v1.#")
    channel.confirm_delivery()
    ask(channel, issue)
    ask(channel, pay)
    while wait_for(channel, payment_id, seconds=60) is None:
        print("no outcome yet: it will come, perhaps after a person has looked; never pay again meanwhile")


while payment_id not in heard:
    try:
        with pika.BlockingConnection(parameters) as connection:
            converse(connection.channel())
    except ProbableAuthenticationError:
        sys.exit("the broker refuses this user name and password")
    except AMQPError as error:  # a lost connection, a nack, a message that no queue took
        print("in doubt, so all is sent again:", repr(error))
        time.sleep(1)

outcome = heard[payment_id]["data"]
if "receipt_number" not in outcome:
    sys.exit(f"not charged: {outcome['outcome']}, {outcome['reason']}")
print("paid, receipt", outcome["receipt_number"])
