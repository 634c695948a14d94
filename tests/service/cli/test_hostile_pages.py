"""Every command that shows what others wrote is run on hostile rows: nothing of it controls the terminal, and JSON stays JSON."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest
import typer.main
from rich.cells import cell_len

from deploy.cli import main as cli
from shared.messaging.envelope import Outgoing
from shared.persistence import outbox
from shared.persistence.database import Database
from tests.service.audit.books import HISTORY, LEDGER, LOGS, RUN, TAP, command, payment, write_books
from tests.service.cli.remit import addresses
from tests.support.databases import rows, unguarded
from tests.support.environment import ROOT, Environment
from tests.support.hostile import HOSTILE, controls_in

WORDS: Final = "".join(
    text for name, text in HOSTILE.items() if name not in {"NUL", "lone surrogate", "10 000 characters"}
)
"""What a database can hold, behind every text in it."""
CLOSED: Final = ("status", "origin", "withheld", "lane", "action")
"""Columns with a closed vocabulary, which a constraint or our own code guards."""
DEADLINE_S: Final = 60.0
QUARANTINED: Final = UUID(int=99)
"""A message that ends connections."""
Invocations = Mapping[tuple[str, ...], list[list[str]] | str]


def invocations(letter: str, folder: Path, words: str = WORDS) -> Invocations:
    """How each command is called so that it shows something; or why it is not called here."""
    invoice = f"INV-paid{words}"
    money = ["--amount-minor", "5", "--currency", "EUR", "--wait", "0"]
    evidence = ["--history", str(folder / HISTORY), "--tap", str(folder / TAP), "--run", str(folder / RUN)]
    why = ["--reason", words.replace("4242", ""), "--who", "ann"]
    return {
        ("run",): "it becomes a service, whose logs are tested by themselves",
        ("migrate",): [["saga"]],
        ("rebuild",): [[]],
        ("topology", "apply"): [[]],
        ("topology", "check"): [[]],
        ("topology", "prune"): [[], ["--connections", words], ["--connections", str(folder / HISTORY)]],
        ("topology", "limits"): [[], [words], ["--bytes", words], ["--vhost", words], ["--bytes", "1GiB", "saga.events"]],
        ("version",): [[]],
        ("completion",): [["bash"], [words]],
        ("permissions",): [[], ["--sender", words], ["--listener", "crm"]],
        ("permissions", "rabbitmq"): [[], ["--sender", words], ["--vhost", words], ["--definitions", "--passwords", words]],
        ("permissions", "postgresql"): [["saga"]],
        ("permissions", "apply"): [["saga"]],
        ("audit",): [["--drained", *evidence, "--ledger", str(folder / LEDGER), "--logs", str(folder / LOGS)],
                     ["--require", words], ["--lost", words]],
        ("audit", "baseline"): [[str(folder / f"base{words[:40].replace('/', '')}.json")]],
        ("invoice", "issue"): [["INV-new", "--customer", "C-1", *money], [invoice, "--customer", words, *money]],
        ("invoice", "pay"): [["INV-new", "--token", "pm_card_visa", *money], [invoice, "--token", words, *money]],
        ("invoice", "void"): [["INV-new", "--wait", "0", "--reason", "because"], [invoice, "--wait", "0", "--reason", words]],
        ("invoice", "refund"): [
            ["INV-new", "--currency", "EUR", "--wait", "0", "--reason", "because"],
            [invoice, *money, "--reason", words],
        ],
        ("invoice", "list"): [[]],
        ("invoice", "show"): [[invoice], [f"INV-parted{words}"], [f"INV-decided{words}"], [words]],
        ("command", "show"): [[str(command("pay void"))], [str(command("poison"))], [str(uuid4())]],
        ("card", "encrypt"): [["--payment-id", str(uuid4()), "--key-file", words]],
        ("card", "keys"): [
            ["--private", str(folder / f"{words[5:60].replace('/', '')}.key"), "--public", str(folder / "public"), "--kid", words]
        ],
        ("card", "public"): [["--private", words]],
        ("config", "check"): [[], ["saga"]],
        ("config", "reference"): [[]],
        ("faults", "list"): [[]],
        ("dead-letters", "list"): [[], ["--all"], ["--queue", words]],
        ("dead-letters", "show"): [[letter]],
        ("dead-letters", "replay"): [[letter, words, "--who", "ann"], ["--all", "--who", words], ["--all", "--yes", "--who", "ann"]],
        ("dead-letters", "discard"): [[letter, words, *why], [letter, "--reason", "because", "--who", "ann"]],
        ("desk", "accounts", "list"): [[]],
        ("desk", "accounts", "add"): [[words, "--who", "ann"], ["eve", "--who", words], ["eve", "--password-stdin"]],
        ("desk", "accounts", "password"): [[words, "--who", "ann"], ["nobody", "--who", words]],
        ("journal", "verify"): [[]],
        ("purge",): [["--scan"], ["--scan", "--do", "--reason", words, "--who", words]],
        ("doctor",): [[], ["--rabbitmqctl", f"echo {words}"], ["--rabbitmqctl", words]],
        ("find",): [[invoice], [letter], [str(payment("paid"))], [str(payment("waiting"))], [str(QUARANTINED)], [words]],
        ("reconcile",): [["--ledger", words], ["--since", words], ["--report", words]],
        ("outbox", "list"): [[]],
        ("outbox", "release"): [["saga", str(uuid4()), *why], ["invoice", str(QUARANTINED), "--reason", words, "--who", words]],
        ("outbox", "drop"): [["saga", str(uuid4()), *why], ["invoice", str(QUARANTINED), "--reason", words, "--who", words]],
        ("senders", "tokens", "list"): [[], [words]],
        ("senders", "tokens", "add"): [["shop"], [words]],
        ("senders", "tokens", "revoke"): [[str(uuid4())], [words]],
        ("payments", "in-doubt"): [[], ["--all"]],
        ("payments", "show"): [[str(payment("decided"))], [str(payment("waiting"))]],
        ("payments", "ask"): [[str(payment("waiting")), "--who", words], [str(payment("waiting")), "--who", "ann"]],
        ("payments", "refund"): [
            [str(payment("waiting")), *why],
            [str(payment("paid")), "--invoice", words, "--currency", "EUR", "--reason", "because", "--who", "ann"],
        ],
        ("payments", "resolve"): [
            [str(payment("waiting")), "captured", "--version", "1", "--evidence", words, "--receipt", words, *why],
            [str(payment("waiting")), "captured", "--version", "99", "--evidence", "e", "--reason", "r", "--who", "ann"],
        ],
        ("payments", "withdraw"): [[str(payment("waiting")), "--who", words], [str(payment("decided")), "--who", "ann"]],
        ("payments", "reopen"): [
            [str(payment("decided")), "--version", "99", "--evidence", words, *why],
            [str(payment("waiting")), "--version", "1", "--reason", "r", "--who", "ann"],
        ],
    }  # fmt: skip


def commands_of(app: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the application, by its path."""
    inner = getattr(app, "commands", None)
    if inner is None or getattr(app, "invoke_without_command", False):
        yield path, app
    for name, one in (inner or {}).items():
        yield from commands_of(one, (*path, name))


COMMANDS: Final = {
    path: one
    for called in (None, *cli._FOR_STAFF)
    for path, one in commands_of(typer.main.get_command(cli.build(called)))
    if (called is None) == (path[0] not in cli._FOR_STAFF)
}


IN_LINES: Final = {
    ("audit", "baseline"),
    ("card", "keys"),
    ("completion",),
    ("config", "reference"),
    ("journal", "verify"),
    ("payments", "ask"),
    ("payments", "refund"),
    ("payments", "reopen"),
    ("payments", "resolve"),
    ("permissions", "postgresql"),
    ("permissions", "rabbitmq"),
    ("purge",),
    ("rebuild",),
    ("topology", "limits"),
}
"""Commands that print lines for programs, or one for each thing that was asked for: never wrapped. All other pages fit 80 columns."""


@pytest.fixture(scope="module")
def hostile(environment_urls: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores in which every text that somebody else could have chosen ends with hostile words, and such evidence for the audit."""
    folder = tmp_path_factory.mktemp("hostile")

    async def write() -> None:
        await write_books(environment_urls.databases, folder)
        for url in environment_urls.databases.values():
            await _spoil(url)
        await _quarantine(environment_urls.databases["invoice"])

    asyncio.run(write())
    for name, member in ((HISTORY, "command_id"), (TAP, "message_id")):
        lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        lines += [line | {member: f"{line[member]}{WORDS}"} for line in lines]
        (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    report = json.loads((folder / RUN).read_text())
    report["planned"].append({"name": WORDS, "fired": 0})
    (folder / RUN).write_text(json.dumps(report))
    (folder / LOGS).mkdir(exist_ok=True)
    (folder / LOGS / f"{WORDS[10:60].replace('/', '')}.log").write_text("4242 4242 4242 4242\n")
    return folder


async def _spoil(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        for table, column, kind in await connection.fetch(
            """SELECT table_name, column_name, data_type FROM information_schema.columns NATURAL JOIN information_schema.tables
               WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND data_type IN ('text', 'jsonb')
               AND table_name NOT IN ('alembic_version', 'outbox')"""
        ):
            if column in CLOSED or (table, column) == ("events", "type"):
                continue
            async with unguarded(url, table):
                if kind == "text":
                    with suppress(asyncpg.PostgresError):  # a constraint guards some
                        await connection.execute(f"UPDATE {table} SET {column} = {column} || $1", WORDS)
                    continue
                for key, value in await connection.fetch(
                    f"SELECT ctid, {column} FROM {table} WHERE {column} IS NOT NULL"
                ):
                    spoilt = json.dumps(_spoilt(json.loads(value)))
                    await connection.execute(f"UPDATE {table} SET {column} = $2 WHERE ctid = $1", key, spoilt)
    finally:
        await connection.close()


async def _quarantine(url: str) -> None:
    database = await Database.open(url, name="test", connections_max=1)
    message = Outgoing(QUARANTINED, WORDS, WORDS, WORDS, WORDS, b"{}", message_id=WORDS, reply_to=WORDS)
    async with database.transaction() as tx:
        await outbox.insert(tx, [message])
        await tx.execute("UPDATE outbox SET sweep_after = 'infinity'")
    await database.close()


def _spoilt(value: Any, name: str = "") -> Any:
    """The JSON with hostile words behind every text, but for ids, times and what our own code reads by name."""
    match value:
        case dict():
            members = {key: _spoilt(inner, key) for key, inner in value.items()}
            return members | {f"more{WORDS}": WORDS} if name == "headers" else members
        case list():
            return [_spoilt(inner, name) for inner in value]
        case str() if name.endswith(("_id", "id", "at", "resolution", "method", "kind")):
            return value
        case str():
            return f"{value}{WORDS}"
        case _:
            return value


def test_every_command_has_its_place_in_the_table(tmp_path: Path) -> None:
    lacking = sorted(COMMANDS.keys() - invocations("", tmp_path).keys())
    assert not lacking, (
        f"tests/service/cli/test_hostile_pages.py: how is {lacking} called so that it shows texts of others?"
    )


@pytest.mark.parametrize("path", sorted(COMMANDS), ids=" ".join)
def test_nothing_that_a_command_shows_acts_on_the_terminal(
    path: tuple[str, ...],
    hostile: Path,
    environment_urls: Environment,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (letter, *_) = asyncio.run(
        rows(environment_urls.databases["staff"], "SELECT id FROM dead_letters ORDER BY status = 'open' DESC")
    )
    called = invocations(str(letter["id"]), hostile)[path]
    if isinstance(called, str):
        pytest.skip(called)
    for name, value in (addresses(environment_urls, path[0]) | {"TERM": "dumb"}).items():
        monkeypatch.setenv(name, value)
    takes_json = any("--json" in parameter.opts for parameter in COMMANDS[path].params)
    for arguments in called:
        for columns in ("80", "200"):
            monkeypatch.setenv("COLUMNS", columns)
            out, err = run([*path, *arguments], capsys)
            assert not controls_in(out), out
            assert not controls_in(err), err
            if columns == "80" and path not in IN_LINES:
                assert max(map(cell_len, out.splitlines()), default=0) <= 80, out
        if takes_json:
            out, err = run([*path, *arguments, "--json"], capsys)
            assert not controls_in(out + err)
            assert not out or json.loads(out) is not None


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What a command writes to stdout and stderr. It ends with a code of ours, and without a traceback."""
    if arguments[0] == "rebuild":  # it becomes another process
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments],
            capture_output=True,
            timeout=DEADLINE_S,
            cwd=ROOT,
            check=False,
        )
        code, out, err = done.returncode, done.stdout.decode(), done.stderr.decode()
    else:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        shown = capsys.readouterr()
        code, out, err = int(ended.value.code or 0), shown.out, shown.err
    assert code in {0, 1, 2}
    assert "Traceback" not in err, err
    return out, err


def test_the_rows_are_hostile_indeed(hostile: Path, environment_urls: Environment) -> None:
    for service, query in {
        "invoice": "SELECT invoice_id AS text FROM invoices",
        "payment_gateway": "SELECT evidence AS text FROM attempts",
        "saga": "SELECT fact AS text FROM transitions",
        "staff": "SELECT reason AS text FROM dead_letters",
    }.items():
        found = asyncio.run(rows(environment_urls.databases[service], query))
        assert found, service
        assert all(controls_in(row["text"]) for row in found)
