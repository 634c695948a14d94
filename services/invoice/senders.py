"""Who sent a command, what that sender may do, and under which id the answer is kept.

The broker vouches for the name of a sender: it takes a message with a `user_id` only from the user of that name. With `SENDERS=named` a
command must have one. An invoice then belongs to whoever issued it, and the same id from another sender is another command. With
`SENDERS=trusted` names are stored as far as they are there, and mean nothing: whoever may write to `invoice.commands.entry` may do
everything. Neither is a default: one would open every invoice to every sender, the other refuse the commands of senders without a name.
"""

from uuid import UUID

from shared.amqp.frames import SHORT_STRING_BYTES_MAX
from shared.amqp.lenient_decoding import has_marks
from shared.ids import id_of_command
from shared.messaging import dead_letter_headers
from shared.messaging.consumer import Delivery
from shared.messaging.reply_address import is_of_sender, problem_of, queue_of
from shared.records import dataclass, field
from shared.settings import ConfigurationError

STAFF_USER = "staff"
"""The broker's user as whom the staff service connects. What it replays is of the sender that it names."""
ANYBODY = "*"
_OTHER_NAME = "reply_to does not begin with the name of its sender and a dot"
_NAME_WITH_A_DOT = (
    "reply_to is no direct reply-to, and your name has a dot: what begins with it may be the queue of another sender"
)


@dataclass(frozen=True, slots=True)
class Senders:
    """The settings about senders. `groups` gives each name of a group the whole group: its names share their invoices.

    `unowned` are the names that may pay, void and refund invoices of which nobody knows who issued them.
    """

    are_named: bool = False
    groups: dict[str, frozenset[str]] = field(default_factory=dict)
    unowned: frozenset[str] = frozenset()
    staff_user: str = STAFF_USER

    @classmethod
    def of(cls, *, are_named: bool, groups: str, unowned: str, staff_user: str) -> "Senders":
        """From the texts of SENDER_GROUPS, UNOWNED_INVOICES and STAFF_USER. Raises `ConfigurationError`."""
        return cls(are_named, _groups(groups), frozenset(_names("UNOWNED_INVOICES", unowned)), staff_user)

    def name_of(self, delivery: Delivery) -> str | None:
        """The name of the command's sender. None if nobody vouches for one, or if it cannot be read."""
        user = delivery.user_id
        if user is None:
            return None
        said = dead_letter_headers.said_sender(delivery.headers)
        name = dead_letter_headers.sender_of(user, said, staff_user=self.staff_user)
        if not self.are_named and name == user and dead_letter_headers.replays(delivery):
            return None  # staff replayed it, and connect as a user who is not theirs alone
        return name if name is not None and _is_name(name) else None

    def ids_of(self, command_id: UUID, sender: str | None) -> tuple[UUID, UUID | None]:
        """Under which id the command is kept; and under which it may be, if it came before `SENDERS` was changed."""
        if self.are_named:
            return id_of_command(sender, command_id), command_id if sender is not None else None
        return command_id, id_of_command(sender, command_id) if sender is not None else None

    def may_use(self, sender: str | None, owner: str | None) -> bool:
        """Whether the sender may pay, void and refund the invoices of this owner."""
        if not self.are_named or sender == owner is not None:
            return True
        if owner is None:
            return not self.unowned.isdisjoint((sender, ANYBODY))
        return owner in self.groups.get(sender or "", ())

    def answers_to(self, reply_to: str | None, sender: str | None) -> str | None:
        """The address of the answer, or None if there is none, or none that may be answered."""
        if not reply_to or has_marks(reply_to) or self.problem_of(reply_to, sender) is not None:
            return None
        return queue_of(reply_to)

    def problem_of(self, reply_to: str | None, sender: str | None) -> str | None:
        """Why a command with this address is refused, as a sentence. None if it is not.

        An address that cannot be read counts as none: the command is whole, and its answer is kept as that of any command without one.
        """
        if not reply_to or has_marks(reply_to):
            return None
        if self.are_named and not is_of_sender(queue_of(reply_to), sender):
            return problem_of(reply_to) or (_NAME_WITH_A_DOT if sender and "." in sender else _OTHER_NAME)
        return problem_of(reply_to)


def _is_name(name: str) -> bool:
    """Whether the name can be read. What cannot is marked (`shared.amqp.lenient_decoding`), and a mark is not printable."""
    return bool(name) and name.isprintable()


def unfit_name(name: str) -> str | None:
    """Why no user of the broker can have this name, as the end of a sentence. None if one can."""
    if not _is_name(name) or name != name.strip() or "," in name:
        return "has to be that of a user of the broker, with no sign that cannot be seen, and no comma"
    if len(name.encode()) > SHORT_STRING_BYTES_MAX:
        return f"has more than {SHORT_STRING_BYTES_MAX} bytes, and no user of the broker has"
    return None


def _groups(text: str) -> dict[str, frozenset[str]]:
    """`a,b;c,d` as the group of each name."""
    groups: dict[str, frozenset[str]] = {}
    for part in text.split(";") if text else ():
        names = _names("SENDER_GROUPS", part)
        if len(names) < 2:  # noqa: PLR2004 - who would it share with?
            raise ConfigurationError("SENDER_GROUPS must have two names or more in each group, such as a,b;c,d.")
        if not groups.keys().isdisjoint(names):
            raise ConfigurationError("SENDER_GROUPS must have each name in one group only.")
        groups |= dict.fromkeys(names, frozenset(names))
    return groups


def _names(variable: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")] if text else []
    if not all(unfit_name(name) is None for name in names):
        raise ConfigurationError(f"{variable} must be names of users of the broker, separated by commas.")
    if len(set(names)) < len(names):
        raise ConfigurationError(f"{variable} must have each name once.")
    return names
