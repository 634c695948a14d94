"""The settings of this service."""

from typing import Annotated

from pydantic import Field

from shared.service import ServiceSettings
from shared.settings import ASCENDING, BY_COMMAS, DatabaseUrl, database_url, variable

LADDER_S = (120.0, 300.0, 900.0, 3_600.0)
"""Seconds until each reminder. Most payments end within a second, and the payment gateway has a ladder of its own. So after two minutes a
message was probably lost."""
STEP_MIN_S, STEP_MAX_S = 0.1, 86_400.0
STEPS_MAX = 10

Reminders = Annotated[tuple[Annotated[float, Field(ge=STEP_MIN_S, le=STEP_MAX_S)], ...], BY_COMMAS, ASCENDING]


class SagaSettings(ServiceSettings):
    """The settings of the saga service."""

    name: str = "saga"
    database_url: DatabaseUrl = database_url("saga")
    deadline_s: Reminders = variable(
        "SAGA_DEADLINE_S",
        LADDER_S,
        min_length=1,
        max_length=STEPS_MAX,
        about="The wait before each reminder about a payment that has not ended.",
    )


SETTINGS = SagaSettings
