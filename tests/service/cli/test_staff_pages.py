"""`remit dead-letters` and `remit payments`: what people and scripts see, and the exit codes."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from services.staff.__main__ import assemble
from shared.contracts import invoice
from shared.contracts.payment_gateway import PaymentNeedsDecision
from tests.service.cli.remit import remit
from tests.support.databases import execute, rows
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

PAYMENT = uuid4()


class Terminal:
    """A terminal on which a person types commands."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    async def run(self, *arguments: str, answer: str = "", columns: int = 80) -> tuple[int, str, str]:
        """Run a command; returns exit code, stdout and stderr."""
        variables: dict[str, Any] = {"COLUMNS": str(columns), "USER": "ann", "TERM": "dumb"}
        if self._url is not None:
            variables["STAFF_DATABASE_URL"] = self._url
        typed = await remit(*arguments, stdin=answer, **variables)
        return typed.code, typed.out, typed.err

    async def json(self, *arguments: str) -> Any:
        code, out, err = await self.run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
async def terminal(environment: Environment, upstream: UpstreamClient) -> AsyncIterator[Terminal]:
    """A terminal. The staff service runs, with three dead letters and a payment that waits for a decision."""
    async with environment.running("staff", assemble):
        hostile = "\u202e[red]not markup[/red]".encode()
        for number, body in enumerate([b'{"method": {"token": "pm_card_visa"}}', b"not JSON", hostile]):
            await upstream.send_raw(body, exchange="dead-letters", key="saga.events", message_id=str(number))
        await upstream.send(
            PaymentNeedsDecision(
                invoice_id="INV-1",
                payment_id=PAYMENT,
                version=4,
                amount_minor=1_250,
                currency="EUR",
                reason="unknown_to_gateway",
            )
        )

        async def all_there() -> bool:
            url = environment.databases["staff"]
            counts = await rows(
                url, "SELECT (SELECT count(*) FROM dead_letters) AS a, (SELECT count(*) FROM cases) AS b"
            )
            return counts == [{"a": 3, "b": 1}]

        await until(all_there, what="three dead letters and a case")
        yield Terminal(environment.databases["staff"])


async def test_json_for_programs(terminal: Terminal) -> None:
    listed = await terminal.json("dead-letters", "list", "--queue", "saga.events", "--reason", "unknown")
    assert sorted(letter["message_id"] for letter in listed) == ["0", "1", "2"]
    assert {letter["status"] for letter in listed} == {"open"}
    text = next(letter["id"] for letter in listed if letter["message_id"] == "1")
    shown = await terminal.json("dead-letters", "show", text[-8:])
    assert (shown["body"], shown["hides"], shown["journal"]) == ("not JSON", False, [])
    (case,) = await terminal.json("payments", "in-doubt")
    assert (case["payment_id"], case["version"], case["decisions"]) == (str(PAYMENT), 4, ["captured", "not_charged"])


async def test_tables_fit_the_terminal(terminal: Terminal) -> None:
    for arguments in (("dead-letters", "list"), ("payments", "in-doubt"), ("payments", "show", str(PAYMENT))):
        for columns in (80, 140):
            code, out, _ = await terminal.run(*arguments, columns=columns)
            assert code == 0, arguments
            assert max(len(line) for line in out.splitlines() if "remit payments" not in line) <= columns, arguments


async def test_a_body_does_not_control_the_terminal_and_what_pays_is_hidden(terminal: Terminal) -> None:
    for letter in await terminal.json("dead-letters", "list"):
        code, out, _ = await terminal.run("dead-letters", "show", letter["id"])
        assert code == 0
        assert "\u202e" not in out
        assert "pm_card_visa" not in out
        if letter["message_id"] == "0":
            body = (await terminal.json("dead-letters", "show", letter["id"]))["body"]
            assert "hidden" in body
            assert "pm_card_visa" not in body
        if letter["message_id"] == "2":
            assert "\\u202e[red]not markup[/red]" in out


async def test_several_are_replayed_after_a_question(terminal: Terminal) -> None:
    code, _, err = await terminal.run("dead-letters", "replay", "--all", answer="n\n")
    assert (code, "Replay 3 messages (3 to saga.events)?" in err) == (1, True)
    code, out, _ = await terminal.run("dead-letters", "replay", "--all", answer="y\n")
    assert (code, out.count("replayed to saga.events")) == (0, 3)
    assert await terminal.json("dead-letters", "list") == []
    assert len(await terminal.json("dead-letters", "list", "--all")) == 3


async def test_it_asks_before_it_charges_for_an_old_command(
    terminal: Terminal, environment: Environment, upstream: UpstreamClient
) -> None:
    about: dict[str, Any] = {"invoice_id": "INV-9", "payment_id": uuid4(), "amount_minor": 1_250, "currency": "EUR"}
    pay = invoice.PayInvoice(**about, method=invoice.TokenMethod(token="pm_card_visa"))
    event = {"specversion": "1.0", "id": str(uuid4()), "type": pay.wire_name, "source": "/test"}
    old = event | {"time": "2025-01-01T00:00:00Z", "data": pay.model_dump(mode="json")}
    body = json.dumps(old).encode()
    await upstream.send_raw(body, exchange="dead-letters", key="invoice.commands", message_id=event["id"])

    async def kept() -> list[dict[str, Any]]:
        return await rows(
            environment.databases["staff"], "SELECT id FROM dead_letters WHERE queue = 'invoice.commands'"
        )

    letter = str((await until(kept, what="the dead letter"))[0]["id"])
    code, _, err = await terminal.run("dead-letters", "replay", letter, answer="n\n", columns=200)
    assert code == 1
    assert "12.50 EUR for invoice INV-9, sent " in err
    assert "Charge 12.50 EUR in all, although these commands are old?" in err
    code, _, err = await terminal.run("dead-letters", "replay", letter, "--yes")
    assert (code, "it would charge 12.50 EUR" in err) == (1, True)
    code, out, _ = await terminal.run("dead-letters", "replay", letter, answer="y\n")
    assert (code, "replayed to invoice.commands" in out) == (0, True)


async def test_the_second_person_is_told_who_was_first(terminal: Terminal) -> None:
    letter_id = (await terminal.json("dead-letters", "list"))[0]["id"]
    (done,) = await terminal.json("dead-letters", "replay", letter_id, "--who", "bea")
    assert (done["ok"], done["subject"]) == (True, letter_id)
    code, _, err = await terminal.run("dead-letters", "discard", letter_id, "--reason", "too late")
    assert (code, "already replayed by bea at " in err) == (1, True)
    shown = await terminal.json("dead-letters", "show", letter_id)
    assert [(entry["who"], entry["action"]) for entry in shown["journal"]] == [
        ("bea", "replay"),
        ("ann", "refused"),
    ]


async def _is_sent(terminal: Terminal) -> bool:
    """Whether the decision was sent. Until then, it waits."""
    shown = await terminal.json("payments", "show", str(PAYMENT))
    assert shown["decision_on_its_way"] is not shown["decision_waiting"]
    return bool(shown["decision_on_its_way"])


async def test_a_payment_is_settled(terminal: Terminal) -> None:
    words = ["--evidence", "seen", "--reason", "told"]
    code, _, err = await terminal.run("payments", "resolve", str(PAYMENT)[-8:], "captured", "--version", "4", *words)
    assert (code, "needs the gateway's receipt number" in err) == (1, True)
    code, out, _ = await terminal.run(
        "payments", "resolve", str(PAYMENT), "captured", "--version", "4", "--receipt", "R-1", *words
    )
    assert (code, "decided: captured; the staff service sends it now" in out) == (0, True)
    code, _, err = await terminal.run("payments", "resolve", str(PAYMENT), "not_charged", "--version", "4", *words)
    assert (code, "ann decided captured at " in err) == (1, True)
    await until(lambda: _is_sent(terminal), what="the decision to be sent")
    assert (await terminal.json("payments", "ask", str(PAYMENT)))[0]["ok"] is True


async def test_a_payment_that_nobody_doubts_is_no_case_of_an_unknown_state(
    terminal: Terminal, environment: Environment
) -> None:
    """Somebody asked about it: what the gateway answered is shown, and no doubt that there never was."""
    await execute(environment.databases["staff"], "UPDATE cases SET status = 'unknown', version = 0")
    _, out, _ = await terminal.run("payments", "show", str(PAYMENT), columns=140)
    assert ("no doubt was told" in out, "version" in out) == (True, False)


MISTAKES: list[tuple[tuple[str, ...], int, str]] = [
    (("dead-letters", "replay"), 2, "Say which: IDs, a filter such as --queue, or --all."),
    (("dead-letters", "replay", "abcd1234", "--all"), 2, "Give either IDs or filters, not both."),
    (("dead-letters", "discard", "--reason", "x"), 2, "Say which: one or more IDs."),
    (("dead-letters", "show", "nonsense"), 2, "'nonsense' is no id"),
    (("dead-letters", "show", "00000000"), 1, "No id ends with 00000000."),
    (
        ("dead-letters", "list", "--queue", "saga.evnts"),
        2,
        "--queue saga.evnts: no dead letter has that, and none can.",
    ),
    (("dead-letters", "list", "--reason", "unknwon"), 2, "unknown, unknown_type"),
    (("dead-letters", "replay", "--type", "PayInvoce"), 2, "PayInvoice, "),
    (("dead-letters", "show", str(uuid4())), 1, "There is no dead letter of this id."),
    (("payments", "show", str(uuid4())), 1, "There is no case of this payment."),
    (("dead-letters", "list", "--older-than", "soon"), 2, "--older-than takes a number and a unit"),
    (("payments", "resolve", str(PAYMENT), "perhaps"), 2, "captured"),
]


async def test_mistakes_are_one_sentence(terminal: Terminal) -> None:
    for arguments, code, sentence in MISTAKES:
        got, out, err = await terminal.run(*arguments)
        assert (got, out) == (code, ""), arguments
        assert sentence in err, arguments
        assert "Traceback" not in err, arguments


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (None, "STAFF_DATABASE_URL is not set"),
        ("mysql://x", "STAFF_DATABASE_URL must be a URL"),
        ("postgresql://u:secret-word@127.0.0.1:1/staff", "The staff database does not answer"),
    ],
)
async def test_a_wrong_configuration_names_the_variable(url: str | None, sentence: str) -> None:
    code, _, err = await Terminal(url).run("dead-letters", "list")
    assert code == 2
    assert sentence in err
    assert "secret-word" not in err


async def test_for_an_unmigrated_database_the_remedy_is_printed(environment: Environment) -> None:
    url = environment.databases["staff"].rpartition("/")[0] + "/postgres"
    code, _, err = await Terminal(url).run("payments", "in-doubt")
    assert (code, "run `remit migrate`" in err) == (2, True)


async def test_one_mistyped_id_keeps_nothing_from_the_others(terminal: Terminal) -> None:
    listed = await terminal.json("dead-letters", "list")
    code, out, err = await terminal.run(
        "dead-letters", "discard", listed[0]["id"], "not an id", "00000000", listed[1]["id"][-12:], "--reason", "both"
    )
    assert (code, out.count(": discarded")) == (1, 2)
    assert "'not an id' is no id" in err
    assert "No id ends with 00000000." in err
    assert [letter["status"] for letter in await terminal.json("dead-letters", "list")] == ["open"]


# -- the journal -----------------------------------------------------------------------------------------------------------------------


async def test_a_journal_is_verified_against_a_noted_head(environment: Environment) -> None:
    url = environment.databases["staff"]
    for who in ("ann", "bea"):
        entry = "INSERT INTO journal VALUES (gen_random_uuid(), now(), $1, 'ask', gen_random_uuid(), '{}')"
        await execute(url, entry, who)
    whole = await remit("journal", "verify", "--json", environment=environment)
    assert (whole.code, whole.json["broken"]) == (0, 0), whole.err
    head = whole.json["head"]
    assert head.startswith("2:")
    again = await remit("journal", "verify", "--head", head, environment=environment)
    assert (again.code, again.err) == (0, f"2 entries, nothing wrong. The head is {head}.\n")
    other = await remit("journal", "verify", "--head", f"2:{'0' * 64}", "--head", head, environment=environment)
    assert other.code == 1
    assert "entry 2 has another hash than a note knows" in other.out
    gone = await remit("journal", "verify", "--head", f"3:{'0' * 64}", environment=environment)
    assert (gone.code, gone.out) == (1, "3: entry 3 is known from a note, and there is no such entry\n")
    rubbish = await remit("journal", "verify", "--head", "2", environment=environment)
    unset = await remit("journal", "verify")
    assert (rubbish.code, unset.code, unset.err) == (2, 2, "remit: STAFF_DATABASE_URL is not set.\n")
