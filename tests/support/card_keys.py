"""Keys for encrypted cards: one pair for all tests of a process, since finding one takes up to a second."""

from functools import cache
from typing import Any

from shared.card_data.encryption import generate_keyset

Keyset = tuple[dict[str, Any], dict[str, Any]]
"""The public and the private keys."""


@cache
def card_keys() -> Keyset:
    """The same at each call."""
    return generate_keyset()
