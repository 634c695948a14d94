"""What an operator has to mend ends a service at its start, with one sentence. What may go away by itself ends none."""

import asyncio
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.permissions.broker import BrokerUser, Permission, broker_users, definitions
from deploy.permissions.databases import Service, grants_sql
from services.saga.__main__ import MIGRATIONS, assemble
from shared.amqp.broker_link import ADVICE, BrokerLink
from shared.messaging.start_check import missing_at, writes_of
from shared.persistence.database import Database, RightMissingError
from shared.persistence.migrate import AnotherServiceError, migrate
from shared.persistence.rights import rights_of
from shared.records import replace
from shared.service import ServiceSettings, serve
from shared.settings import ConfigurationError
from tests.support.databases import execute
from tests.support.environment import Environment
from tests.support.upstream_client import UpstreamClient
from tests.support.waiting import until

DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def _ours(environment: Environment) -> None:
    if environment.stack.kind == "given":
        pytest.skip("the users and databases of given servers are not ours")


def saga(environment: Environment, **changes: Any) -> ServiceSettings:
    return environment.settings("saga").model_copy(update=changes)


async def mistake(settings: ServiceSettings) -> str:
    """What the service says as it ends by itself."""
    with pytest.raises(ConfigurationError) as told:
        async with asyncio.timeout(DEADLINE_S):
            await serve(settings, MIGRATIONS, assemble, asyncio.Event(), mistake_stands_s=0)
    return str(told.value)


def with_login(url: str, login: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl()


def with_path(url: str, path: str) -> str:
    return urlsplit(url)._replace(path=path).geturl()


# -- the database -------------------------------------------------------------------------------------------------------------------------


async def test_a_wrong_password(environment: Environment) -> None:
    url = with_login(environment.settings("saga").database_url, "saga:wrong")
    assert await mistake(saga(environment, database_url=url)) == (
        'SAGA_DATABASE_URL: password authentication failed for user "saga" / 28P01; '
        "are user and password of the database URL right?"
    )


async def test_a_database_that_is_not_there(environment: Environment) -> None:
    url = with_path(environment.settings("saga").database_url, "/missing")
    told = await mistake(saga(environment, database_url=url))
    assert told.startswith('SAGA_DATABASE_URL: database "missing" does not exist / 3D000; is the name ')


async def test_the_database_of_another_service(environment: Environment) -> None:
    """An administrator may connect to it, so no right is missing."""
    told = await mistake(saga(environment, database_url=environment.databases["staff"]))
    assert told == "SAGA_DATABASE_URL: this is the database of staff, not of saga: name the right one."
    with pytest.raises(AnotherServiceError, match="this is the database of staff, not of saga"):
        await migrate(environment.databases["staff"], MIGRATIONS)


@pytest.mark.parametrize(
    ("right", "named"),
    [
        ("INSERT ON outbox", "INSERT on outbox"),
        ("SELECT ON alembic_version", "SELECT on alembic_version"),
        ("USAGE ON SCHEMA public", "USAGE on public"),
        ("ALL ON inbox", "DELETE on inbox, INSERT on inbox, SELECT on inbox"),
        (
            "ALL ON ALL TABLES IN SCHEMA public",
            "SELECT on alembic_version, DELETE on deadlines, INSERT on deadlines and 16 more",
        ),
    ],
    ids=["insert", "version", "schema", "a table", "everything"],
)
async def test_a_right_that_was_taken_away(right: str, named: str, environment: Environment) -> None:
    url = environment.databases["saga"]
    await execute(url, f"REVOKE {right} FROM saga")
    try:
        told = await mistake(saga(environment))
    finally:
        await execute(url, grants_sql("saga"))
    assert told == f"SAGA_DATABASE_URL: role saga lacks {named}; `remit permissions` shows what each role needs."


@pytest.mark.parametrize(
    ("name", "process", "right", "named"),
    [
        ("payment_gateway", "payment_gateway", "UPDATE (version) ON outcomes", "UPDATE on outcomes.version"),
        ("staff", "desk", "EXECUTE ON FUNCTION journal_hash", "EXECUTE on journal_hash"),
        ("invoice", "door", "SELECT (hash) ON sender_tokens", "SELECT on sender_tokens.hash"),
    ],
    ids=["a column", "a function, of the desk", "the door"],
)
async def test_each_process_is_held_against_what_its_own_role_needs(
    name: Service, process: str, right: str, named: str, environment: Environment
) -> None:
    role = process if process != "desk" else "staff"
    folder = MIGRATIONS.parents[1] / name
    url = environment.stack.database_url_of(name, role)
    database = await Database.open(url, name="test", connections_max=1, rights=rights_of(folder, process))
    try:
        await database.refuse_if_rights_are_missing()
        await execute(environment.databases[name], f"REVOKE {right} FROM {role}")
        with pytest.raises(RightMissingError, match=f"^role {role} lacks {named}; "):
            await database.refuse_if_rights_are_missing()
    finally:
        await execute(environment.databases[name], grants_sql(name))
        await database.close()


async def test_tls_that_the_server_does_not_speak(environment: Environment) -> None:
    url = f"{environment.settings('saga').database_url}?sslmode=require"
    told = await mistake(saga(environment, database_url=url))
    assert told == "SAGA_DATABASE_URL: the URL demands TLS and the server speaks none."


# -- the broker ---------------------------------------------------------------------------------------------------------------------------


async def test_a_wrong_password_of_the_broker(environment: Environment) -> None:
    url = with_login(environment.settings("saga").rabbitmq_url, "saga:wrong")
    told = await mistake(saga(environment, rabbitmq_url=url))
    assert told == "RABBITMQ_URL: the broker refuses this user name and password."


async def test_a_virtual_host_that_is_not_there(environment: Environment) -> None:
    url = with_path(environment.settings("saga").rabbitmq_url, "/missing")
    told = await mistake(saga(environment, rabbitmq_url=url))
    assert told.startswith("RABBITMQ_URL: the virtual host does not exist, or this user may not use it; `remit permi")


async def test_a_topology_that_is_not_there(environment: Environment, empty_vhost: Any) -> None:
    told = await mistake(saga(environment, rabbitmq_url=empty_vhost.rabbitmq_url_of("saga")))
    assert told == (
        f"RABBITMQ_URL: there is no exchange 'invoice.commands.entry' in vhost '{empty_vhost.vhost}': "
        "run `remit topology apply`."
    )


@pytest.mark.parametrize(
    ("permission", "refused"),
    [
        ("write", "write to exchange settlement.commands"),
        ("read", "read from queue saga.events"),
    ],
)
async def test_a_right_that_was_taken_away_at_the_broker(
    permission: Permission, refused: str, environment: Environment
) -> None:
    (user,) = (one for one in broker_users() if one.name == "saga")
    less = replace(user, **{permission: getattr(user, permission) - {refused.rpartition(" ")[2]}})
    allow(environment, less)
    try:
        told = await mistake(saga(environment))
    finally:
        allow(environment, user)
    vhost = environment.stack.vhost
    assert told == f"RABBITMQ_URL: user saga may not {refused} in virtual host {vhost}; {ADVICE}."


def allow(environment: Environment, user: BrokerUser) -> None:
    environment.stack.broker.import_definitions(json.dumps(definitions([user], environment.stack.vhost)))


async def test_that_a_service_may_write_is_found_out_without_a_message(
    environment: Environment, upstream: UpstreamClient
) -> None:
    """A listener hears of everything, and of this it hears nothing."""
    taps = [await upstream.tap(exchange, "#") for exchange in ("invoice.events", "invoice.requests", "staff.reports")]
    link = BrokerLink(environment.settings("invoice").rabbitmq_url, name="test")
    try:
        writes = writes_of(MIGRATIONS.parents[1] / "invoice")
        assert await missing_at(link, ["invoice.commands"], writes) is None
        assert {"amq.default", "invoice.events", "invoice.requests"} <= set(writes)
    finally:
        await link.close()
    assert [await tap.waiting() for tap in taps] == [[], [], []]


async def test_tls_that_the_broker_does_not_speak(environment: Environment) -> None:
    url = environment.settings("saga").rabbitmq_url.replace("amqp://", "amqps://")
    told = await mistake(saga(environment, rabbitmq_url=url))
    assert told == "RABBITMQ_URL: the URL demands TLS and the server speaks none on this port."


# -- this machine -------------------------------------------------------------------------------------------------------------------------


async def test_a_port_that_is_taken(environment: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = await mistake(saga(environment, health_port=port))
    assert told == f"HEALTH_PORT: port {port} of 127.0.0.1 cannot be opened: Address already in use."


# -- what may go away by itself -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["database_url", "rabbitmq_url"])
async def test_servers_that_are_away_end_no_service(environment: Environment, variable: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens on it, and nobody else gets it meanwhile
        url = urlsplit(getattr(environment.settings("saga"), variable))
        login, _, _ = url.netloc.rpartition("@")
        away = url._replace(netloc=f"{login}@127.0.0.1:{closed.getsockname()[1]}").geturl()
        stopping, tries = asyncio.Event(), 0
        settings = saga(environment, **{variable: away})

        async def tried() -> bool:
            return tries >= 2

        def count(*_: Any) -> None:
            nonlocal tries
            tries += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shared.service.Patience.failed", count)
            serving = asyncio.create_task(serve(settings, MIGRATIONS, assemble, stopping, mistake_stands_s=0))
            await until(tried, what="two tries")
            stopping.set()
            assert await serving == 0
