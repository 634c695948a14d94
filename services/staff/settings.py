"""The settings of this service."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from services.staff.proposals import read_limits
from shared.messaging.optional_queues import JournalSettings
from shared.service import ServiceSettings
from shared.settings import DatabaseUrl, database_url, variable


def _fits(text: str) -> str:
    read_limits(text)
    return text


class StaffSettings(ServiceSettings, JournalSettings):
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
