"""Which of the queues that only feed views of staff are in use: settings of the set-up, and of the services that fill or read them."""

from typing import Annotated, Literal

from shared.messaging.topology import HEARTBEATS, JOURNAL
from shared.settings import LOWER_CASE, Settings, variable


class HeartbeatSettings(Settings):
    """Whether instances say that they run."""

    heartbeats: Annotated[Literal["on", "off"], LOWER_CASE] = variable(
        "HEARTBEATS",
        "on",
        about="`on`: every instance of a service says that it runs, and the staff desk shows it. "
        "The same for all services and for `remit topology apply`.",
    )


class JournalSettings(Settings):
    """Whether staff hear what happens to invoices and payments."""

    staff_journal: Annotated[Literal["on", "off"], LOWER_CASE] = variable(
        "STAFF_JOURNAL",
        "on",
        about="`on`: the staff service hears what happens to invoices and payments, for the stories on the staff desk. "
        "The same for the staff service, the staff desk and `remit topology apply`, which binds or unbinds the queue.",
    )


class OptionalQueueSettings(HeartbeatSettings, JournalSettings):
    """What the set-up of the topology reads."""

    @property
    def unbound(self) -> frozenset[str]:
        """The optional queues that get nothing."""
        switches = {HEARTBEATS: self.heartbeats, JOURNAL: self.staff_journal}
        return frozenset(queue for queue, switch in switches.items() if switch == "off")
