"""Which reply addresses of senders are answered: names of queues that the broker can carry, and well-formed direct reply-to.

A message to a crafted address can make the broker close the connection. RabbitMQ 3.10 to 4.1 decode an address that begins with
`amq.rabbitmq.reply-to.` in the channel of whoever publishes to it, and the channel dies if it is not what RabbitMQ itself writes there
(`rabbit_direct_reply_to` and `pid_recomposition`, later `rabbit_pid_codec`): two parts in base64, the process id of the channel that
awaits the answer, and a key of 16 bytes. The process id is in Erlang's external term format, with `reply@` and a hash of the node's name as
its node. Whether there is a node with that hash, and whether its Erlang can have such a process, only the broker knows. So the first answer
to each kind of address (`kind_of`) is tried alone, on the retry lane. Only of the node that we are connected to the broker says it before.
"""

import re
from base64 import b64decode
from binascii import Error
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from shared.amqp.frames import DIRECT_REPLY_TO, SHORT_STRING_BYTES_MAX
from shared.messaging.topology import QUEUE_NAMES

DIRECT: Final = DIRECT_REPLY_TO
_ADDRESS: Final = f"{DIRECT}."
_RESERVED: Final = "amq."
_NAMED_BY_BROKER: Final = re.compile(r"amq\.gen-[A-Za-z0-9_-]{22}")
"""A queue for which the broker chose the name: what a sender without a name for its queue answers to."""
_PROCESS_ID: Final = re.compile(
    rb"\x83[Xg](?:v\x00|w)(?P<length>.)(?P<node>reply@(?:0|[1-9][0-9]{0,8}))(?P<rest>.{9}|.{12})", re.DOTALL
)
"""Version 131; NEW_PID_EXT or PID_EXT; an atom in UTF-8, long or short; id, serial and creation of 4, 4 and 4 or 1 bytes."""
_ID_MAX: Final = 2**28 - 1
"""The largest number of a process."""
_EVERY_ID_MAX: Final = 2**15 - 1
_EVERY_SERIAL_MAX: Final = 2**13 - 1
"""The largest numbers of a process that every Erlang can have. With Erlang/OTP 25 RabbitMQ ends the connection over larger ones
(measured)."""
_KEY_BYTES: Final = 16
_QUEUES: Final = "/queues/"
"""Before the name of a queue in an address of RabbitMQ 4 (version 2 of its addresses), percent-encoded."""
_NOT_A_QUEUE: Final = ("/exchanges/", "/queue/", "/exchange/", "/topic/", "/amq/")
"""How other addresses begin: to an exchange, or of version 1."""


@lru_cache(maxsize=4_096)
def problem_of(reply_to: str) -> str | None:
    """Why this address is not answered, as a sentence for the sender. None if it is answered. An address is never empty."""
    if reply_to in QUEUE_NAMES:
        return "reply_to names a queue of Remit"
    if len(reply_to.encode("utf-8", "replace")) > SHORT_STRING_BYTES_MAX:
        return f"reply_to is longer than {SHORT_STRING_BYTES_MAX} bytes"
    if reply_to.startswith(_QUEUES):
        return problem_of(queue_of(reply_to)) if queue_of(reply_to) else "reply_to names no queue"
    if reply_to.startswith(_NOT_A_QUEUE):
        return "reply_to names no queue: write its name, or /queues/ and its name"
    if not reply_to.isprintable():
        return "reply_to holds characters that no name of a queue has"
    if reply_to.startswith(_ADDRESS):
        return None if is_direct(reply_to) else "reply_to is no address of direct reply-to"
    if reply_to.startswith(_RESERVED) and _NAMED_BY_BROKER.fullmatch(reply_to) is None:
        return "reply_to begins with amq., which the broker reserves"
    return None


def queue_of(reply_to: str) -> str:
    """The name by which the address is published to: `my queue` for `/queues/my%20queue`, else the address itself."""
    return unquote(reply_to.removeprefix(_QUEUES)) if reply_to.startswith(_QUEUES) else reply_to


def is_of_sender(reply_to: str, sender: str | None) -> bool:
    """Whether an answer to this address reaches the sender of this name alone: by direct reply-to, or by a queue whose name begins with
    the sender's and a dot. For a sender without a name, or with a dot in it, only direct reply-to does: `shop` may own the queues of
    `shop.eu`."""
    if sender is None or "." in sender:
        return is_direct(reply_to)
    return reply_to.startswith(f"{sender}.") or is_direct(reply_to)


def is_direct(reply_to: str) -> bool:
    """Whether this is an address of direct reply-to as RabbitMQ writes it."""
    return kind_of(reply_to) is not None


def direct_kind(exchange: str, routing_key: str) -> str | None:
    """The kind of direct reply-to by which a message with this exchange and key goes. None if it goes otherwise."""
    return None if exchange else kind_of(routing_key)


@lru_cache(maxsize=4_096)
def kind_of(reply_to: str) -> str | None:
    """What decides whether the broker can read this address of direct reply-to: the node, and whether its process has a large number.

    Addresses of one kind either all end the connection of whoever publishes to them, or none does. None for any other address.
    """
    if not reply_to.startswith(_ADDRESS):
        return None
    process_id, _, key = reply_to.removeprefix(_ADDRESS).partition(".")
    found = _PROCESS_ID.fullmatch(_decoded(process_id))
    if found is None or found["length"][0] != len(found["node"]) or len(_decoded(key)) != _KEY_BYTES:
        return None
    id_, serial = (int.from_bytes(found["rest"][at : at + 4], "big") for at in (0, 4))
    if id_ > _ID_MAX:
        return None
    is_large = id_ > _EVERY_ID_MAX or serial > _EVERY_SERIAL_MAX
    return f"{found['node'].decode()}{', a large number' if is_large else ''}"


def _decoded(text: str) -> bytes:
    """The bytes behind a text in base64; empty if it is none."""
    try:
        return b64decode(text, validate=True)
    except (Error, ValueError):
        return b""
