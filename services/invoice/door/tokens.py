"""Who asks, by a token."""

from functools import partial

from services.invoice import sender_tokens
from shared.clock import Clock
from shared.persistence.database import Database
from shared.tokens import hash_of, is_token
from shared.web.strangers import Strangers


class TokenReader:
    """Knows the sender of a token."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._strangers = Strangers(clock)

    async def sender_of(self, token: str | None, address: str) -> str | None:
        """The sender whose token this is; None if it does not hold. What is no token is not looked up.

        Raises TooManyWrongError, and what the database raises.
        """
        sender = None
        if token is not None and is_token(token):
            sender = await self._strangers.look_up(hash_of(token), address, partial(self._read, token))
        if sender is None:
            self._strangers.was_wrong(address)
        return sender

    async def _read(self, token: str) -> str | None:
        async with self._database.connection() as connection:
            return await sender_tokens.sender_of(connection, token)
