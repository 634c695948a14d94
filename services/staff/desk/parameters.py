"""Numbers, moments and keys as they stand in addresses: only those that the database can have. Others are mistakes with a sentence."""

from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

from pydantic import AfterValidator, Field

from shared.ids import read_uuid

NUMBER_MAX: Final = 2**63 - 1
FIRST_YEAR, LAST_YEAR = 1970, 2999
"""Nothing that the desk shows is older or later. At the ends of time a moment in another zone is none at all."""


def _in_time(at: datetime) -> datetime:
    """The moment, in UTC if it names no zone. Raises ValueError with words that follow the name."""
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise ValueError(f"a moment between {FIRST_YEAR} and {LAST_YEAR}")
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


Number = Annotated[int, Field(ge=1, le=NUMBER_MAX)]
"""A number that counts rows of the database."""
Moment = Annotated[datetime, AfterValidator(_in_time)]


def read_moment(text: str) -> datetime:
    """A moment in ISO 8601. Raises ValueError."""
    return _in_time(datetime.fromisoformat(text))


def read_key(text: str) -> tuple[datetime, UUID] | None:
    """Where a page of a list ends, `MOMENT_ID`; None if it is no such key."""
    at, _, id_ = text.partition("_")
    try:
        moment = datetime.fromisoformat(at)
        found = read_uuid(id_)
        return (_in_time(moment), found) if moment.tzinfo is not None and found is not None else None
    except ValueError:
        return None


def key_text(at: datetime, id_: UUID) -> str:
    """The key of the page behind this line."""
    return f"{at.isoformat()}_{id_}"
