"""`remit senders tokens`: a token is shown once, kept as a digest, and holds until it ends or is revoked."""

from uuid import UUID, uuid4

from services.invoice import sender_tokens
from shared.persistence.database import Database
from shared.tokens import hash_of
from tests.service.cli.remit import remit
from tests.support.databases import execute, rows
from tests.support.environment import Environment


async def whose(environment: Environment, secret: str) -> str | None:
    """As the door asks, under its role."""
    database = await Database.open(environment.stack.database_url_of("invoice", "door"), name="test", connections_max=1)
    try:
        async with database.connection() as connection:
            return await sender_tokens.sender_of(connection, secret)
    finally:
        await database.close()


async def test_a_token_is_made_listed_and_revoked(environment: Environment) -> None:
    assert "makes one" in (await remit("senders", "tokens", "list", environment=environment)).err
    made = await remit("senders", "tokens", "add", "shop", "--days", "7", environment=environment)
    secret = made.out.strip()
    assert (made.code, secret[:6]) == (0, "remit_")
    other = (await remit("senders", "tokens", "add", "shop", "--json", environment=environment)).json
    (kept, _) = await rows(environment.databases["invoice"], "SELECT * FROM sender_tokens ORDER BY ends_at")
    assert (kept["sender"], kept["hash"], (kept["ends_at"] - kept["made_at"]).days) == ("shop", hash_of(secret), 7)
    assert secret not in str(kept)
    assert [await whose(environment, one) for one in (secret, other["token"], f"{secret}x", "")] == [
        "shop",
        "shop",
        None,
        None,
    ]
    gone = await remit("senders", "tokens", "revoke", str(kept["id"]), environment=environment)
    assert gone.code == 0
    assert [await whose(environment, one) for one in (secret, other["token"])] == [None, "shop"]
    listed = (await remit("senders", "tokens", "list", "shop", "--json", environment=environment)).json
    assert {one["id"]: one["state"] for one in listed} == {str(kept["id"]): "revoked", other["id"]: "holds"}
    assert secret not in str(listed)
    assert (await remit("senders", "tokens", "revoke", str(uuid4()), environment=environment)).code == 1


async def test_a_token_that_was_revoked_stays_so_and_one_that_ended_is_worth_nothing(environment: Environment) -> None:
    made = (await remit("senders", "tokens", "add", "shop", "--json", environment=environment)).json
    database = await Database.open(environment.databases["invoice"], name="test", connections_max=1)
    try:
        first = await sender_tokens.revoke(database, UUID(made["id"]))
        assert await sender_tokens.revoke(database, UUID(made["id"])) == first
    finally:
        await database.close()
    ended = (await remit("senders", "tokens", "add", "shop", "--json", environment=environment)).json
    await execute(environment.databases["invoice"], "UPDATE sender_tokens SET ends_at = now()")
    assert await whose(environment, ended["token"]) is None


async def test_what_is_no_name_of_a_sender_is_refused_in_a_sentence(environment: Environment) -> None:
    for name, why in {
        "a,b": "no comma",
        "a\u202eb": "no sign that cannot be seen",
        " shop": "no sign that cannot be seen",
        "x" * 256: "has more than 255 bytes",
        "4111 1111 1111 1111": "holds card data",
    }.items():
        refused = await remit("senders", "tokens", "add", name, environment=environment)
        assert (refused.code, why in refused.err) == (2, True), (name, refused.err)
        assert "4111" not in refused.err
