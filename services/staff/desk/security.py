"""What protects the desk at its border: headers of every answer, how large a form may be, and where it comes from."""

import base64
import hmac
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from services.staff.desk.problems import Refused

BODY_BYTES_MAX = 1024 * 1024
"""Ten thousand ids and a long text fit in. No form of the desk is larger."""
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
OTHER_SITE = Refused("other_site", "This form is from another page: open it again.", HTTPStatus.FORBIDDEN)


def form_key(cookie: str) -> str:
    """The hidden value of every form of this cookie's session. Another page cannot know it, and it gives nothing of the cookie away."""
    digest = hmac.digest(cookie.encode(), b"remit desk form", "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def check_origin(request: Request, origin: str) -> None:
    """Raise `Refused` if a browser says that the request comes from another site. A browser cannot be made to say otherwise."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise OTHER_SITE
    said = request.headers.get("origin")
    if said is not None and _of(said) != _of(origin):
        raise OTHER_SITE


def check_form_key(given: object, cookie: str) -> None:
    """Raise `Refused` if a form does not have the hidden value of this session."""
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), form_key(cookie).encode()):
        raise OTHER_SITE


def _of(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc.lower()


def own_page(address: str) -> str:
    """An address within the desk, as it may follow a sign-in; the overview for anything else."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\", "/sign-in")) and address.isprintable()
    return address if is_own and "\\" not in address else "/"
