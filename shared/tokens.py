"""Secrets by which programs show who they are. A token is shown once, and only its digest is kept."""

import re
import secrets
from hashlib import sha256
from typing import Final

MARK: Final = "remit_"
"""The beginning of every token, by which scanners for leaked secrets find one."""
DAYS_MAX: Final = 400
"""For how long a token holds at most: a year, and time to exchange it."""
_BYTES: Final = 32
_FORM: Final = re.compile(f"{MARK}[A-Za-z0-9_-]{{43}}")
"""43 characters of base64url hold 32 bytes."""


def new_token() -> str:
    """A new token. Nobody can guess it: it has 256 random bits."""
    return MARK + secrets.token_urlsafe(_BYTES)


def is_token(text: str) -> bool:
    """Whether this has the form of a token: nothing else can be one."""
    return _FORM.fullmatch(text) is not None


def hash_of(secret: str) -> bytes:
    """Under which a token or a cookie is kept. It is random and long, so a plain digest cannot be tried out.

    It is looked up by this digest. How long that takes can tell no more than the beginning of the digest of a guess, and nobody can choose
    a guess by its digest.
    """
    return sha256(secret.encode()).digest()
