"""The settings of this service."""

from shared.messaging.optional_queues import JournalSettings
from shared.service import ServiceSettings
from shared.settings import DatabaseUrl, database_url


class StaffSettings(ServiceSettings, JournalSettings):
    """The settings of the staff service."""

    name: str = "staff"
    database_url: DatabaseUrl = database_url("staff")


SETTINGS = StaffSettings
