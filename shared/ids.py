"""Ids are derived, so that a handler that runs twice names its output the same (DESIGN 2)."""

from uuid import UUID, uuid5

import uuid_utils.compat


def derived_id(cause: UUID, position: int | str) -> UUID:
    """Id of the message at `position` among those that `cause` brought about: UUIDv5 (RFC 9562) in the cause's namespace."""
    return uuid5(cause, str(position))


def new_id() -> UUID:
    """A fresh id at the border of the system (UUIDv7, RFC 9562: ordered by time, so indexes on it stay compact)."""
    return uuid_utils.compat.uuid7()
