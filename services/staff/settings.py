"""The settings of this service."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from services.staff.charges import OLD_AFTER
from services.staff.proposals import read_limits
from shared.messaging.optional_queues import JournalSettings
from shared.service import ServiceSettings
from shared.settings import LOWER_CASE, DatabaseUrl, Settings, database_url, variable

REPLAY_CHARGES_WITHIN_MAX_S = 365 * 86_400.0


class ReplaySettings(Settings):
    """What replays go by, whoever makes them: a run, the desk, or `remit`."""

    replay_charges_within_s: float = variable(
        "REPLAY_CHARGES_WITHIN_S",
        OLD_AFTER.total_seconds(),
        ge=0.0,
        le=REPLAY_CHARGES_WITHIN_MAX_S,
        about="The age from which a dead letter that charges a card is not replayed unless a person says so. A run leaves it out.",
    )
    staff_replays: Annotated[Literal["on", "off"], LOWER_CASE] = variable(
        "STAFF_REPLAYS",
        "on",
        about="`on`: a service that handles a replayed message tells staff what became of it. `off`: only a further failure shows.",
    )


def _fits(text: str) -> str:
    read_limits(text)
    return text


class StaffSettings(ServiceSettings, JournalSettings, ReplaySettings):
    """The settings of the staff service."""

    name: str = "staff"
    database_url: DatabaseUrl = database_url("staff")
    seals_file: Path | None = variable(
        "STAFF_SEALS_FILE",
        None,
        must="the path of a file that this service may add to",
        unset="none",
        about="Where seals of [the journal](README.md#the-journal) are added, on a disk that the owner of the database cannot write.",
    )
    second_person: Annotated[str, AfterValidator(_fits)] = variable(
        "STAFF_SECOND_PERSON",
        "EUR:50000,USD:50000",
        must="amounts in minor units by currency, separated by commas, such as EUR:50000,USD:50000; `none`: always",
        about="Above which amount a second person must agree with a decision or a refund; in any other currency always.",
    )


SETTINGS = StaffSettings
