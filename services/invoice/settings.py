"""The settings of this service."""

from typing import Literal

from services.invoice.senders import STAFF_USER, Senders
from shared.service import ServiceSettings
from shared.settings import DatabaseUrl, Settings, database_url, variable

REMIND_AFTER_S = 30.0
"""How long a payment may be pending before its request is announced again. Most payments end within a second. From the reminder on, the
saga watches the payment: its first deadline comes two minutes later."""


class SenderSettings(Settings):
    """The settings about senders: of the invoice service, and of the door, which tells each only of what is its own."""

    senders: Literal["named", "trusted"] = variable(
        "SENDERS",
        must="named, if each sender has a user of its own at the broker, or trusted, "
        "if each may pay and void the invoices of all",
        about="`named`: every command needs a `user_id`, see [senders](README.md#senders). `trusted`: whoever may write to "
        "`invoice.commands.entry` may do everything to every invoice, and hears the answer to any command whose id it knows. "
        "The same for the invoice service and the door, as for the other settings about senders.",
    )
    sender_groups: str = variable(
        "SENDER_GROUPS",
        "",
        must="groups of two names or more, such as billing-eu,billing-us;shop-a,shop-b",
        unset="each has its own",
        about="Names of senders that share their invoices.",
    )
    unowned_invoices: str = variable(
        "UNOWNED_INVOICES",
        "",
        must="names of users of the broker, separated by commas, or `*` for all",
        unset="nobody",
        about="Who may pay, void and refund invoices of which nobody knows who issued them.",
    )
    staff_user: str = variable(
        "STAFF_USER",
        STAFF_USER,
        must="the name of a user of the broker",
        about="The broker's user as whom the staff service connects. It alone may say for whom it replays a command.",
    )

    def check(self) -> None:
        """Raise `ConfigurationError` for names of senders that cannot be."""
        self.of_senders()

    def of_senders(self) -> Senders:
        """What these settings say about senders. Raises `ConfigurationError`."""
        return Senders.of(
            are_named=self.senders == "named",
            groups=self.sender_groups,
            unowned=self.unowned_invoices,
            staff_user=self.staff_user,
        )


class InvoiceSettings(ServiceSettings, SenderSettings):
    """The settings of the invoice service."""

    name: str = "invoice"
    database_url: DatabaseUrl = database_url("invoice")
    remind_after_s: float = variable(
        "INVOICE_REMIND_AFTER_S",
        REMIND_AFTER_S,
        ge=0.1,
        le=86_400.0,
        about="When a pending payment or refund is announced again, and the saga begins to watch the payment.",
    )


SETTINGS = InvoiceSettings
