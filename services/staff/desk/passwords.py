"""Passwords of local accounts, hashed with argon2id. A hash takes 64 MiB and a tenth of a second, so only so many are made at once."""

import asyncio
import base64
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

PASSWORD_LENGTH_MIN, PASSWORD_LENGTH_MAX = 12, 200
_AT_ONCE = 2
_WORD_BYTES = 12
_hasher = PasswordHasher()


def _hash_of_nothing() -> str:
    """What a hash looks like, with random bytes in the place of one. To verify it takes as long, and to make it takes no time."""
    salt, hashed_ = (
        base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")
        for length in (_hasher.salt_len, _hasher.hash_len)
    )
    costs = f"m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${costs}${salt}${hashed_}"


_NOBODYS = _hash_of_nothing()
"""Is verified when a name is not known, so that the time of the answer does not tell which names are."""


def unfit_password(password: str) -> str | None:
    """What is wrong with a new password, as a sentence; None if it will do. Its length counts, not its signs."""
    if len(password) < PASSWORD_LENGTH_MIN:
        return f"A password has at least {PASSWORD_LENGTH_MIN} characters."
    if len(password) > PASSWORD_LENGTH_MAX:
        return f"A password has at most {PASSWORD_LENGTH_MAX} characters."
    if len(set(password)) < PASSWORD_LENGTH_MIN // 3:
        return "This password is too easy to guess."
    return None


def new_password() -> str:
    """A password that nobody guesses."""
    return secrets.token_urlsafe(_WORD_BYTES)


def hashed(password: str) -> str:
    """The hash to keep."""
    return _hasher.hash(password)


class PasswordChecker:
    """Checks passwords beside the event loop, a few at once."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def is_right(self, password: str, kept: str | None) -> bool:
        """Whether a password is the one that was kept. With None, for a name that is not known, it is wrong and takes as long."""
        async with self._turns:
            return await asyncio.to_thread(_is_right, password[: PASSWORD_LENGTH_MAX + 1], kept)

    async def hashed(self, password: str) -> str:
        """The hash to keep."""
        async with self._turns:
            return await asyncio.to_thread(hashed, password)


def _is_right(password: str, kept: str | None) -> bool:
    try:
        _hasher.verify(_NOBODYS if kept is None else kept, password)
    except (VerificationError, InvalidHashError):
        return False
    return kept is not None
