"""Ids are derived, so that a handler that runs twice names its output the same (DESIGN 2).

They are UUIDs of the database driver's own class, a `uuid.UUID` in C, which rows come with as well: made from a text, shown and compared in
a tenth of the time (measured: 0.1, 0.04 and 0.02 microseconds instead of 1, 0.4 and 0.08), and a message passes by a dozen of them.
"""

from hashlib import sha1
from uuid import UUID

import uuid_utils.compat
from asyncpg.pgproto import pgproto


def derived_id(cause: UUID, position: int | str) -> UUID:
    """Id of the message at `position` among those that `cause` brought about: UUIDv5 (RFC 9562) in the cause's namespace."""
    digest = bytearray(sha1(cause.bytes + str(position).encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50  # version
    digest[8] = digest[8] & 0x3F | 0x80  # variant
    return pgproto.UUID(bytes(digest))


def new_id() -> UUID:
    """A fresh id at the border of the system (UUIDv7, RFC 9562: ordered by time, so indexes on it stay compact)."""
    return uuid_utils.compat.uuid7()


def read_uuid(value: object) -> UUID | None:
    """A UUID in the one spelling of RFC 9562, so that an id has one text; the classes also take hyphens anywhere, or none."""
    if not isinstance(value, str):
        return None
    try:
        read = pgproto.UUID(value)
    except ValueError:
        return None
    return read if str(read) == value.lower() else None
