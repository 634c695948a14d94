"""The settings of this service."""

from pathlib import Path

from shared.messaging.optional_queues import JournalSettings
from shared.service import ServiceSettings
from shared.settings import DatabaseUrl, database_url, variable


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


SETTINGS = StaffSettings
