"""Every message by its wire name, found in the modules of the services that own them."""

from types import ModuleType

from shared.contracts import invoice, payment_gateway
from shared.contracts.base import Contract

MODULES = (invoice, payment_gateway)
"""One a service that owns messages."""


def _messages(module: ModuleType) -> list[type[Contract]]:
    """The classes of the module that name a wire type of their own; the others are vocabulary."""
    classes = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Contract)]
    return [one for one in classes if one.__module__ == module.__name__ and "wire_name" in vars(one)]


MESSAGES: tuple[type[Contract], ...] = tuple(message for module in MODULES for message in _messages(module))

BY_WIRE_NAME: dict[str, type[Contract]] = {message.wire_name: message for message in MESSAGES}

PUBLIC_COMMANDS: frozenset[str] = frozenset(
    message.wire_name for message in MESSAGES if issubclass(message, invoice.UpstreamCommand)
)
"""What upstream may send. Any other command on the public queue is refused, so that nobody outside can say "this invoice is paid"."""


def wire_name_without_version(wire_name: str) -> str:
    """`remit.invoice.PayInvoice.v1` -> `remit.invoice.PayInvoice`."""
    return wire_name.rpartition(".v")[0]
