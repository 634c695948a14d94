"""The settings of the door."""

from typing import Annotated

from services.invoice.settings import SenderSettings
from shared.service import ProcessSettings
from shared.settings import BY_COMMAS, NETWORKS, DatabaseUrl, database_url, variable

PORT = 8700


class DoorSettings(ProcessSettings, SenderSettings):
    """The settings of the door. Those about senders must be those of the invoice service."""

    name: str = "door"
    database_url: DatabaseUrl = database_url("invoice")
    host: str = variable(
        "DOOR_HOST", "127.0.0.1", must="an address of this machine", about="The address where the door listens."
    )
    port: int = variable(
        "DOOR_PORT", PORT, ge=0, le=65_535, about="The port where the door listens; 0: any that is free."
    )
    proxies: Annotated[tuple[str, ...], BY_COMMAS, NETWORKS] = variable(
        "DOOR_PROXIES",
        (),
        must="addresses or networks, separated by commas",
        unset="none",
        about="Proxies in front of the door: the address that they name for a sender is believed; wrong tokens are counted by it.",
    )


SETTINGS = DoorSettings
