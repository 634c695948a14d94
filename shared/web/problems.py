"""What a problem of RFC 9457 is made of, whoever tells of it."""

import secrets
from http import HTTPStatus

MEDIA_TYPE = "application/problem+json"
_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # without those that are misheard or misread
_NUMBER_LENGTH = 6


def title_of(status: int) -> str:
    """The name of a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Problem"


def error_number() -> str:
    """A number by which somebody on the telephone names an error, and the log has it."""
    return "REQ-" + "".join(secrets.choice(_LETTERS) for _ in range(_NUMBER_LENGTH))
