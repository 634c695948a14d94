"""`remit migrate`, `topology`, `card`, and the entry point."""

import asyncio
import shutil
import stat
import sys
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import aio_pika
import orjson
import pytest

from deploy.cli.main import run
from deploy.cli.output import OK, REFUSED, CliError
from deploy.local.stack import Stack
from shared.card_data.encryption import CardDetails, CardKeyring, CardRefusal
from shared.messaging.envelope import Outgoing
from shared.messaging.topology import EXCHANGES, QUEUES
from shared.persistence import outbox
from shared.persistence.database import Database
from shared.persistence.migrate import migrate
from tests.service.cli.remit import remit
from tests.support.databases import rows
from tests.support.environment import ROOT, Environment

PAYMENT = uuid.uuid4()


async def test_migrate_prints_what_was_applied(stack: Stack) -> None:
    name = f"test_cli_{uuid.uuid4().hex[:8]}"
    url = stack.create_database(name)
    try:
        first = await remit("migrate", "saga", "--json", SAGA_DATABASE_URL=url)
        second = await remit("migrate", "saga", SAGA_DATABASE_URL=url)
    finally:
        stack.drop_database(name)
    assert first.code == 0, first.err
    assert list(first.json) == ["saga"]
    assert first.json["saga"][0] == "0001"
    assert second.out.startswith("saga: nothing to do")


async def test_the_second_of_two_simultaneous_migrations_finds_nothing_to_do(stack: Stack) -> None:
    name = f"test_cli_{uuid.uuid4().hex[:8]}"
    url = stack.create_database(name)
    try:
        both = await asyncio.gather(*(remit("migrate", "saga", "--json", SAGA_DATABASE_URL=url) for _ in range(2)))
    finally:
        stack.drop_database(name)
    assert [typed.code for typed in both] == [0, 0], [typed.err for typed in both]
    assert sorted(bool(typed.json["saga"]) for typed in both) == [False, True]


@pytest.fixture
def migrations(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The migrations of an example, in place of the saga's. The database has the first of them: instances may be at work there."""
    name = f"test_cli_{uuid.uuid4().hex[:8]}"
    url = stack.create_database(name)
    monkeypatch.setenv("SAGA_DATABASE_URL", url)
    monkeypatch.setattr("deploy.cli.operate.SERVICES_FOLDER", tmp_path)
    example, folder = ROOT / "tests" / "service" / "rolling_migration", tmp_path / "saga" / "migrations"
    folder.mkdir(parents=True)
    shutil.copy(example / "0001_initial.py", folder)
    asyncio.run(migrate(url, folder))
    yield shutil.copytree(example, folder, dirs_exist_ok=True)
    stack.drop_database(name)


def test_post_steps_are_named_and_wait_for_the_post_option(
    migrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], [], ["--post"]):
        assert run(["migrate", "saga", *options]) == OK
    assert capsys.readouterr().out.splitlines() == [
        "saga: applied 0002; for `remit migrate --post`: 0003_post_drop_name",
        "saga: nothing to do; for `remit migrate --post`: 0003_post_drop_name",
        "saga: applied 0003",
    ]


def test_a_pre_step_after_a_post_step_is_refused_with_a_sentence(migrations: Path) -> None:
    assert run(["migrate", "saga"]) == OK
    (migrations / "0004_pre_more.py").write_text("revision = '0004'\ndown_revision = '0003'\n\n\ndef upgrade(): ...\n")
    with pytest.raises(CliError, match="saga: 0004_pre_more comes after 0003_post_drop_name: stop all") as refused:
        run(["migrate", "saga"])
    assert refused.value.code == REFUSED


@pytest.mark.parametrize(
    ("url", "code", "sentence"),
    [
        ("", 2, "remit: SAGA_DATABASE_URL is not set: it must be a URL such as postgresql://"),
        ("mysql://x", 2, "remit: SAGA_DATABASE_URL must be a URL such as postgresql://"),
        ("postgresql://u:secret@127.0.0.1:1/x", 1, "remit: SAGA_DATABASE_URL: cannot migrate (ConnectionRefusedError"),
    ],
)
async def test_the_variable_of_a_missing_database_is_named(url: str, code: int, sentence: str) -> None:
    typed = await remit("migrate", "saga", SAGA_DATABASE_URL=url)
    assert typed.code == code
    assert typed.err.startswith(sentence)
    assert typed.err.count("\n") == 1
    assert "secret" not in typed.err


async def test_topology_is_applied_and_checked(empty_vhost: Stack) -> None:
    url = empty_vhost.rabbitmq_url
    before = await remit("topology", "check", "--json", RABBITMQ_URL=url)
    too_early = await remit("topology", "prune", RABBITMQ_URL=url)
    applied = await remit("topology", "apply", RABBITMQ_URL=url)
    pruned = await remit("topology", "prune", RABBITMQ_URL=url)
    after = await remit("topology", "check", RABBITMQ_URL=url)
    assert (before.code, len(before.json["problems"])) == (1, len(EXCHANGES) + len(QUEUES))
    assert (applied.code, applied.out) == (
        0,
        f"{len(EXCHANGES)} exchanges and {len(QUEUES)} queues are as they should be.\n",
    )
    assert too_early.code == 1
    assert "run `remit topology apply` first" in too_early.err
    assert (pruned.code, pruned.out) == (0, "Nothing of an earlier version is bound any more.\n")
    assert (after.code, after.out) == (0, "Everything is there.\n")


async def test_an_exchange_of_another_type_is_named_and_replaced_if_asked(empty_vhost: Stack) -> None:
    url = empty_vhost.rabbitmq_url
    async with await aio_pika.connect(url, timeout=10) as connection:
        channel = await connection.channel(on_return_raises=True)
        await channel.declare_exchange("invoice.commands.entry", "topic", durable=True)
        events = await channel.declare_exchange("invoice.events", "topic", durable=True)
        others = await channel.declare_queue(exclusive=True)
        await others.bind(events, "#")
        check = await remit("topology", "check", "--json", RABBITMQ_URL=url)
        refused = await remit("topology", "apply", RABBITMQ_URL=url)
        replaced = await remit("topology", "apply", "--replace", RABBITMQ_URL=url)
        after = await remit("topology", "check", RABBITMQ_URL=url)
        for exchange in ("invoice.commands.entry", "invoice.events.direct"):
            entered = await channel.get_exchange(exchange, ensure=False)
            await entered.publish(aio_pika.Message(exchange.encode()), "what no version knows", timeout=10)
        received = await others.get(no_ack=True, timeout=10)
    assert "exchange invoice.commands.entry has other settings" in check.json["problems"][0]
    assert refused.code == 1
    assert "invoice.commands.entry" in refused.err
    assert "`remit topology apply --replace`" in refused.err
    assert (replaced.code, after.code, after.out) == (0, 0, "Everything is there.\n")
    assert received is not None
    assert received.body == b"invoice.events.direct", "an exchange of the right type keeps the bindings of others"


async def quarantine(environment: Environment) -> UUID:
    """Put a message into the saga's outbox that has ended too many connections."""
    one = Outgoing(uuid4(), "settlement.commands", "k", "remit.test.v1", "c", b"{}")
    database = await Database.open(environment.databases["saga"], name="test", connections_max=1)
    async with database.transaction() as tx:
        await outbox.insert(tx, [one])
        await tx.execute("UPDATE outbox SET sweep_after = 'infinity', losses = 6")
    await database.close()
    return one.id


async def test_a_quarantined_message_is_shown_and_released_with_a_reason(environment: Environment) -> None:
    none = await remit("outbox", "list", environment=environment)
    id_ = await quarantine(environment)
    listed = await remit("outbox", "list", environment=environment)
    as_json = await remit("outbox", "list", "--json", environment=environment)
    act = ("saga", str(id_)[-8:], "--reason", "the broker is repaired", "--who", "Ada")
    released = await remit("outbox", "release", *act, environment=environment)
    again = await remit("outbox", "release", *act, environment=environment)
    assert (none.code, none.err) == (0, "No message is quarantined.\n")
    assert f" {str(id_)[-8:]} " in listed.out
    assert [(one["service"], one["id"], one["losses"]) for one in as_json.json] == [("saga", str(id_), 6)]
    assert (released.code, released.out) == (0, f"{id_}: it is published again, within a second\n")
    assert (again.code, again.err) == (1, f"remit: No id ends with {str(id_)[-8:]}.\n")
    left = await rows(environment.databases["saga"], "SELECT losses, sweep_after <= now() AS due FROM outbox")
    assert left == [{"losses": 0, "due": True}]


async def test_a_quarantined_message_is_dropped_only_with_a_reason_for_the_journal(environment: Environment) -> None:
    id_ = await quarantine(environment)
    without = await remit("outbox", "drop", "saga", str(id_), environment=environment)
    card = await remit("outbox", "drop", "saga", str(id_), "--reason", "4111 1111 1111 1111", environment=environment)
    assert (without.code, card.code) == (2, 1)
    assert len(await rows(environment.databases["saga"], "SELECT 1 FROM outbox")) == 1
    dropped = await remit(
        "outbox", "drop", "saga", str(id_), "--reason", "nobody needs it", "--who", "Ada", environment=environment
    )
    assert dropped.code == 0, dropped.err
    assert await rows(environment.databases["saga"], "SELECT 1 FROM outbox") == []
    noted = await rows(environment.databases["staff"], "SELECT who, action, subject, details FROM journal")
    details = {"reason": "nobody needs it", "service": "saga", "via": "terminal"}
    assert noted == [{"who": "Ada", "action": "drop", "subject": id_, "details": details}]


async def test_keys_are_made_once_and_the_private_one_is_private(tmp_path: Path) -> None:
    private, public = tmp_path / "private.json", tmp_path / "public.json"
    make = ("card", "keys", "--private", str(private), "--public", str(public))
    made = await remit(*make, "--json")
    again = await remit(*make)
    assert made.code == 0, made.err
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert CardKeyring.load(orjson.loads(private.read_bytes())).public_jwks() == orjson.loads(public.read_bytes())
    assert made.json["kid"] == orjson.loads(public.read_bytes())["keys"][0]["kid"]
    assert (again.code, again.err) == (2, f"remit: {private} exists: it may hold a key that is in use.\n")


async def test_keys_are_rotated_by_overlap(tmp_path: Path) -> None:
    old, new, public = (tmp_path / name for name in ("old.json", "new.json", "public.json"))
    await remit("card", "keys", "--private", str(old), "--public", str(tmp_path / "old.public.json"), "--kid", "2025")
    rotate = ("card", "keys", "--keep", str(old), "--private", str(new), "--public", str(public), "--kid")
    taken = await remit(*rotate, "2025")
    made = await remit(*rotate, "2026", "--json")
    assert (taken.code, taken.err) == (2, f"remit: {old} has a key 2025 already: choose another name.\n")
    assert made.json["kid"] == "2026"
    both = CardKeyring.load(orjson.loads(new.read_bytes()))
    assert [key["kid"] for key in orjson.loads(public.read_bytes())["keys"]] == ["2025", "2026"]
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    encrypt = ("card", "encrypt", "--payment-id", str(PAYMENT), "--key-file")
    for file, kid in ((tmp_path / "old.public.json", "2025"), (public, "2026")):
        jwe = (await remit(*encrypt, str(file), stdin="4242424242424242 1/2031\n")).out.strip()
        assert orjson.loads(urlsafe_b64decode(jwe.partition(".")[0] + "=="))["kid"] == kid
        assert isinstance(both.decrypt(jwe, PAYMENT), CardDetails)
    published = await remit("card", "public", "--private", str(new))
    assert published.json == orjson.loads(public.read_bytes()) == both.public_jwks()
    new.chmod(0o644)
    refused = await remit("card", "public", "--private", str(new))
    assert refused.code == 2
    assert refused.err.startswith(f"remit: {new} can be read or changed by others")


async def test_a_card_is_encrypted_for_one_payment(tmp_path: Path) -> None:
    private, public = tmp_path / "private.json", tmp_path / "public.json"
    await remit("card", "keys", "--private", str(private), "--public", str(public))
    encrypt = ("card", "encrypt", "--payment-id", str(PAYMENT), "--key-file", str(public))
    encrypted = await remit(*encrypt, stdin="4242424242424242 1/2031\n")
    keyring = CardKeyring.load(orjson.loads(private.read_bytes()))
    card = keyring.decrypt(encrypted.out.strip(), PAYMENT)
    assert getattr(card, "number", None) == "4242424242424242"
    with_holder = await remit(
        *encrypt, "--name", "Jane Doe", "--postal-code", "90210", stdin="4242424242424242 1/2031\n"
    )
    held = keyring.decrypt(with_holder.out.strip(), PAYMENT)
    assert held == CardDetails("4242424242424242", 1, 2031, "Jane Doe", "90210")
    endless = await remit(*encrypt, "--name", "x" * 101, stdin="4242424242424242 1/2031\n")
    assert (endless.code, endless.out) == (2, "")
    rubbish = await remit(*encrypt, stdin="4242424242424242\n")
    wrong = await remit(*encrypt, stdin="4242424242424241 1/2031\n")
    assert (rubbish.code, rubbish.err) == (2, "remit: a card is expected as NUMBER MM/YYYY.\n")
    assert (wrong.code, wrong.err) == (2, f"remit: the card is refused: {CardRefusal.INVALID_NUMBER.value}.\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file or directory."),
        ("no json", "is not JSON."),
        ('{"keys": []}', "is not a JWK set with a key in it."),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "not an RSA key"),
    ],
)
async def test_an_unusable_key_file_is_named(tmp_path: Path, content: str | None, sentence: str) -> None:
    keys = tmp_path / "keys.json"
    if content is not None:
        keys.write_text(content)
    typed = await remit(
        *("card", "encrypt", "--payment-id", str(PAYMENT)),
        stdin="4242424242424242 1/2031\n",
        CARD_PUBLIC_KEYS_FILE=str(keys),
    )
    assert typed.code == 2
    assert typed.err.startswith("remit: CARD_PUBLIC_KEYS_FILE: ")
    assert sentence in typed.err
    assert "c2VjcmV0" not in typed.err


@pytest.mark.parametrize(
    "arguments", [("run", "nothing"), ("nothing",), ("invoice", "show"), ("audit", "--grace", "-1")]
)
async def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert (await remit(*arguments)).code == 2


async def test_help_needs_none_of_the_heavy_libraries() -> None:
    """`remit --help` answers at once: each command imports only what it needs."""
    script = (
        "import sys; from deploy.cli.main import build; build();"
        "heavy = {'asyncpg', 'aio_pika', 'pydantic', 'sqlalchemy', 'joserfc', 'services.staff'};"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")


async def test_every_command_is_listed() -> None:
    listed = (await remit("--help")).out
    for name in (
        "run",
        "migrate",
        "topology",
        "invoice",
        "command",
        "card",
        "permissions",
        "rebuild",
        "dead-letters",
        "payments",
        "audit",
    ):
        assert f" {name} " in listed
