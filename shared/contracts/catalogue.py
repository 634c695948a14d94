"""Every message by its wire name. The messages are found in the modules of the services that own them."""

import re
from types import ModuleType

from shared.contracts import invoice, operations, payment_gateway, staff
from shared.contracts.base import Contract

MODULES = (invoice, payment_gateway, staff, operations)
"""One module for each service that owns messages, and one for those that every service says."""


def _messages(module: ModuleType) -> list[type[Contract]]:
    """The classes of the module that have a wire name of their own. Other classes are only bases of those."""
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Contract)]
    return [class_ for class_ in classes if class_.__module__ == module.__name__ and "wire_name" in vars(class_)]


MESSAGES: tuple[type[Contract], ...] = tuple(message for module in MODULES for message in _messages(module))

BY_WIRE_NAME: dict[str, type[Contract]] = {message.wire_name: message for message in MESSAGES}

EVENTS: frozenset[str] = frozenset(message.wire_name for message in MESSAGES if message.kind == "event")

PUBLIC_COMMANDS: frozenset[str] = frozenset(
    message.wire_name for message in MESSAGES if issubclass(message, invoice.UpstreamCommand)
)
"""The commands that upstream may send. The public queue rejects any other, so that nobody outside can say "this invoice is paid"."""


def wire_name_without_version(wire_name: str) -> str:
    """`remit.invoice.PayInvoice.v1` -> `remit.invoice.PayInvoice`."""
    return wire_name.rpartition(".v")[0]


def short_name(wire_name: str) -> str:
    """The name of a message, for people: `InvoicePaid` of `remit.invoice.InvoicePaid.v1`. Any other text is given back as it came."""
    match wire_name.split("."):
        case ["remit", _, name, _]:
            return name
        case _:
            return wire_name


def is_later_version(wire_name: str) -> bool:
    """Whether this is a later version of a message that is known here. Any other unknown name is a mistake in writing."""
    name, _, version = wire_name.rpartition(".v")
    return bool(_VERSION.fullmatch(version)) and int(version) > _LATEST.get(name, VERSION_MAX)


VERSION_MAX = 999
_VERSION = re.compile(r"[1-9][0-9]{0,2}")
_LATEST = {wire_name_without_version(name): int(name.rpartition(".v")[2]) for name in sorted(BY_WIRE_NAME)}
"""The latest version of each message."""
