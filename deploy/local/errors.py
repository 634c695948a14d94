"""What can go wrong with the local stack."""


class StackError(Exception):
    """The stack cannot be opened, or has failed. The message is one sentence for the person who typed the command."""


class NotOursError(StackError):
    """A broker or database that was given to us must not be stopped, restarted or reconfigured."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The {what} was given by environment variables. Only servers that Remit started itself can be controlled."
        )
