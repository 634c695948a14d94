"""Ids are derived, so that a handler that runs twice names its output the same (DESIGN 2)."""

import re
from uuid import UUID, uuid5

import uuid_utils.compat

_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


def derived_id(cause: UUID, position: int | str) -> UUID:
    """Id of the message at `position` among those that `cause` brought about: UUIDv5 (RFC 9562) in the cause's namespace."""
    return uuid5(cause, str(position))


def new_id() -> UUID:
    """A fresh id at the border of the system (UUIDv7, RFC 9562: ordered by time, so indexes on it stay compact)."""
    return uuid_utils.compat.uuid7()


def read_uuid(value: object) -> UUID | None:
    """A UUID in the one spelling of RFC 9562, so that an id has one text; `UUID()` also takes `_`, a sign and digits of other alphabets."""
    return UUID(value) if isinstance(value, str) and _UUID.fullmatch(value) else None
