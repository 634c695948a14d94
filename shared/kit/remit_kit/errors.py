"""What can go wrong between a sender and Remit. Each text says what is known, and what to do."""

from uuid import UUID

from remit_kit.commands import Command


class RemitError(Exception):
    """Any error of this package."""


class NotConnected(RemitError):
    """The broker was not reached in time, or something there has to be set up first. Nothing was sent."""


class AccessRefused(RemitError):
    """The broker is there, and refuses this user something. The text says what. Nothing was sent."""


class NotConfirmed(RemitError):
    """The broker did not confirm a message. It may have it all the same, so it is sent again with the same id."""


class Rejected(RemitError):
    """Remit rejected the command, for good: the same id is always answered so. `reason` is a code for programs."""

    def __init__(self, command: Command, reason: str, detail: str | None) -> None:
        super().__init__(f"{command.name} {command.id} was rejected: {reason}{f' ({detail})' if detail else ''}")
        self.command = command
        self.reason = reason
        self.detail = detail


class NoAnswer(RemitError):
    """No answer came in time. Ask again with `answer(error.command)` or `outcome(error.command)`: that is always harmless.

    `confirmed` says whether the broker has the command. If it has, Remit will answer. If it does not say so, nobody knows whether it has.
    """

    def __init__(self, command: Command, *, confirmed: bool, doubt: NotConfirmed | None = None) -> None:
        unknown = f"the broker did not confirm it{f' ({doubt})' if doubt else ''}, and may have it or not"
        known = "the broker has it" if confirmed else unknown
        super().__init__(f"no answer to {command.name} {command.id} yet: {known}; ask again with this same command")
        self.command = command
        self.confirmed = confirmed


class NoOutcome(RemitError):
    """The command was accepted, and its outcome did not come in time. It will come; never pay again under another id meanwhile.

    Ask again with `outcome(error.command)`. `in_doubt` says that Remit does not know yet whether the card was charged; a person may have to
    find out, which can take days.
    """

    def __init__(self, command: Command, *, in_doubt: bool) -> None:
        known = "it is in doubt whether the card was charged" if in_doubt else "it is under way"
        super().__init__(f"no outcome of {command.name} {command.id} yet: {known}; ask again with this same command")
        self.command = command
        self.in_doubt = in_doubt

    @property
    def subject_id(self) -> UUID:
        """The id of the payment or refund."""
        return self.command.subject_id
