"""`remit invoice issue|pay|void|refund`: an upstream system at a terminal."""

from pathlib import Path
from uuid import UUID, uuid4

import orjson

from deploy.cli.output import MISUSED
from services.invoice.__main__ import assemble
from shared.card_data.encryption import CardDetails, CardKeyring
from shared.ids import derived_id
from tests.service.cli.remit import Typed, remit
from tests.support.card_keys import card_keys
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient

MONEY = ("--amount-minor", "1250", "--currency", "EUR")
CARD = "4242 4242 4242 4242"


async def issue(environment: Environment, *more: str) -> Typed:
    return await remit("invoice", "issue", "INV-1", "--customer", "C-1", *MONEY, *more, environment=environment)


async def test_a_command_is_sent_and_its_answer_printed(environment: Environment, upstream: UpstreamClient) -> None:
    async with environment.running("invoice", assemble):
        issued = await issue(environment, "--json")
        again = await issue(environment)
    assert (issued.code, issued.json["answer"], issued.json["reason"]) == (0, "accepted", None)
    assert (again.code, again.err) == (1, "")
    assert "rejected: already_issued" in again.out


async def test_a_command_repeated_under_its_id_gets_the_same_answer(
    environment: Environment, upstream: UpstreamClient
) -> None:
    command_id = str(uuid4())
    pay = ("invoice", "pay", "INV-1", *MONEY, "--token", "pm_card_visa", "--id", command_id, "--json")
    events = await upstream.tap("invoice.requests")
    async with environment.running("invoice", assemble):
        await issue(environment)
        first = await remit(*pay, environment=environment)
        second = await remit(*pay, environment=environment)
    assert first.json == second.json
    assert (first.code, first.json["command_id"], first.json["answer"]) == (0, command_id, "accepted")
    assert [received.data["payment_id"] for received in await events.waiting()] == [first.json["payment_id"]]


async def test_an_invoice_is_voided(environment: Environment, upstream: UpstreamClient) -> None:
    async with environment.running("invoice", assemble):
        await issue(environment)
        voided = await remit("invoice", "void", "INV-1", "--reason", "a mistake", environment=environment)
    assert (voided.code, voided.err) == (0, "")
    assert "accepted" in voided.out


async def test_a_refund_is_asked_for(environment: Environment, upstream: UpstreamClient) -> None:
    command_id = str(uuid4())
    asked = ("invoice", "refund", "INV-1", "--currency", "EUR", "--reason", "returned", "--id", command_id, "--json")
    async with environment.running("invoice", assemble):
        await issue(environment)
        first = await remit(*asked, environment=environment)
        again = await remit(*asked, "--amount-minor", "5", environment=environment)
    assert (first.code, first.json["reason"]) == (1, "not_paid")
    assert first.json["refund_id"] == str(derived_id(UUID(command_id), "refund"))
    assert (again.code, again.json["reason"]) == (1, "command_id_reused")


async def test_a_card_is_read_from_stdin_and_leaves_encrypted(
    environment: Environment, upstream: UpstreamClient, tmp_path: Path
) -> None:
    public, private = card_keys()
    keys = tmp_path / "public.json"
    keys.write_bytes(orjson.dumps(public))
    events = await upstream.tap("invoice.requests")
    async with environment.running("invoice", assemble):
        await issue(environment)
        paid = await remit(
            *("invoice", "pay", "INV-1", *MONEY, "--card"),
            environment=environment,
            stdin=f"{CARD} 12/2030\n",
            CARD_PUBLIC_KEYS_FILE=str(keys),
        )
        requested = await events.next()
    assert paid.code == 0, paid.err
    payment_id, jwe = UUID(requested.data["payment_id"]), requested.data["method"]["jwe"]
    assert CardKeyring.load(private).decrypt(jwe, payment_id) == CardDetails(CARD.replace(" ", ""), 12, 2030)
    for number in (CARD, CARD.replace(" ", "")):  # not four digits: a payment id may hold them
        assert number not in paid.out + paid.err


async def test_without_an_answer_the_command_for_asking_again_is_printed(
    environment: Environment, upstream: UpstreamClient
) -> None:
    sent = await issue(environment, "--wait", "0.2", "--json")
    assert (sent.code, sent.json["answer"]) == (1, None)
    assert (
        f"no answer within 0.2 s. The broker has the command; ask again with `remit command show {sent.json['command_id']}`"
        in sent.err
    )
    waiting = await (await upstream.queue("invoice.commands")).next()
    assert (waiting.id, waiting.type) == (sent.json["command_id"], "remit.invoice.IssueInvoice.v1")
    assert waiting.event["data"] == {
        "invoice_id": "INV-1",
        "customer_id": "C-1",
        "amount_minor": 1250,
        "currency": "EUR",
    }


async def test_sending_without_waiting_is_no_failure(environment: Environment, upstream: UpstreamClient) -> None:
    assert (await issue(environment, "--wait", "0")).code == 0


async def test_misuse_is_one_sentence_and_exit_code_2() -> None:
    token = ("--token", "pm_card_visa")
    both = await remit("invoice", "pay", "INV-1", *MONEY, *token, "--card")
    nowhere = await remit("invoice", "pay", "INV-1", *MONEY, *token)
    negative = await remit("invoice", "pay", "INV-1", "--amount-minor", "-1", "--currency", "EUR", *token)
    unknown = await remit("invoice", "pay", "INV-1", "--amount-minor", "1", "--currency", "XXX", *token)
    assert [typed.code for typed in (both, nowhere, negative, unknown)] == [2, 2, 2, 2]
    assert both.err == "remit: give either --token or --card.\n"
    of_nobody = await remit("invoice", "pay", "INV-1", *MONEY, "--card", "--customer", "cus_1")
    assert (of_nobody.code, of_nobody.err) == (2, "remit: --customer goes with --token.\n")
    assert nowhere.err.startswith("remit: RABBITMQ_URL is not set: it must be a URL such as amqp://")
    assert negative.err == "remit: amount_minor: must be at least 1.\n"
    assert unknown.err.startswith("remit: currency: ")


async def test_a_broker_that_is_away_is_named() -> None:
    away = await remit("invoice", "void", "INV-1", "--reason", "r", RABBITMQ_URL="amqp://127.0.0.1:1/")
    assert (away.code, away.err) == (1, "remit: RABBITMQ_URL: the broker does not answer (AMQPConnectionError).\n")


async def test_a_command_with_card_data_is_not_sent(environment: Environment, upstream: UpstreamClient) -> None:
    voided = await remit("invoice", "void", "INV-1", "--reason", f"paid with {CARD}", environment=environment)
    assert voided.code == MISUSED
    assert "a card number in the clear in data.reason" in voided.err
    assert CARD not in voided.err
    assert await upstream.depth("invoice.commands") == 0
