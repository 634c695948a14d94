"""Behind PgBouncer: in session mode everything works, in the other modes a service is refused at its start. With a real PgBouncer."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import asyncpg
import pytest

from services.saga.__main__ import MIGRATIONS, assemble
from shared.persistence.database import Database
from shared.service import serve
from shared.settings import ConfigurationError
from shared.urls import database_arguments
from tests.support.environment import Environment
from tests.support.pgbouncer import pgbouncer
from tests.support.programs import INSTALLED_WITHIN_S

pytestmark = pytest.mark.timeout(INSTALLED_WITHIN_S)
DEADLINE_S = 30.0
NEEDED = "SAGA_DATABASE_URL: sessions are not ours alone: PgBouncer has to be in session mode (pool_mode = session)"


@pytest.fixture(scope="module")
def urls(environment_urls: Environment) -> Iterator[dict[str, str]]:
    """The saga's database through a PgBouncer of each mode."""
    if environment_urls.stack.kind == "given":
        pytest.skip("it needs a password of ours")
    url = environment_urls.settings("saga").database_url
    with ExitStack() as opened:
        modes = ("session", "transaction", "statement")
        yield {mode: opened.enter_context(pgbouncer(url, mode)) for mode in modes}


async def mistake(environment: Environment, url: str) -> str:
    settings = environment.settings("saga").model_copy(update={"database_url": url})
    with pytest.raises(ConfigurationError) as told:
        async with asyncio.timeout(DEADLINE_S):
            await serve(settings, MIGRATIONS, assemble, asyncio.Event(), mistake_stands_s=0)
    return str(told.value)


async def test_in_session_mode_sessions_have_our_settings_and_keep_their_statements(urls: dict[str, str]) -> None:
    """Its own defaults let no setting through when a session starts, so they are made afterwards."""
    database = await Database.open(urls["session"], name="behind a proxy", connections_max=2)
    try:
        async with database.connection() as one, database.connection() as other:
            for connection in (one, other, one, other):
                async with connection.transaction():
                    assert await connection.fetchval("SELECT current_setting($1)", "enable_seqscan") == "off"
                assert await connection.fetchval("SHOW idle_in_transaction_session_timeout") == "15s"
    finally:
        await database.close()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_in_another_mode_a_service_is_refused(mode: str, environment: Environment, urls: dict[str, str]) -> None:
    assert (await mistake(environment, urls[mode])).startswith(NEEDED)


async def test_refused_sessions_leave_no_settings_to_other_clients(urls: dict[str, str]) -> None:
    with pytest.raises(ConnectionError, match="session mode"):
        await refused(urls["transaction"])
    other = await asyncpg.connect(**database_arguments(urls["transaction"], name="another", timeout_s=10.0))
    try:
        async with other.transaction():
            assert await other.fetchval("SHOW enable_seqscan") == "on"
    finally:
        await other.close()


async def refused(url: str) -> None:
    database = await Database.open(url, name="refused", connections_max=2)
    try:
        async with database.connection():
            pass
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("/saga", "/missing"), "PgBouncer knows no database of this name."),
        (("saga:", "saga:not-"), "PgBouncer refuses this user and password."),
    ],
    ids=["database", "password"],
)
async def test_what_pgbouncer_refuses_is_a_mistake(
    changed: tuple[str, str], says: str, environment: Environment, urls: dict[str, str]
) -> None:
    scheme, _, rest = urls["session"].partition("://")
    assert await mistake(environment, f"{scheme}://{rest.replace(*changed)}") == f"SAGA_DATABASE_URL: {says}"
