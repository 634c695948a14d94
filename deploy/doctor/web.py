"""The doctor's look at what is asked over HTTP, the staff desk and the door: whether it answers, and is what its address says."""

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from deploy.doctor.diagnosis import Diagnosis, broken, well

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class WebLook:
    """How one is known: it refuses whoever asks at `path` without saying who they are, with this `code`. `named`: where its URL stands."""

    what: str
    title: str
    path: str
    code: str
    named: str


DESK: Final = WebLook("desk", "staff desk", "/api/v1/words", "signed_out", "REMIT_DESK_URL or DESK_URL")
DOOR: Final = WebLook("door", "door", "/commands/none", "token_unknown", "REMIT_DOOR_URL")


async def look_at_web(one: WebLook, url: str) -> Diagnosis:
    """Ask it something without saying who asks: it answers that one has to say so."""
    return await asyncio.to_thread(_look, one, url)


def _look(one: WebLook, url: str) -> Diagnosis:
    do = f"look at its log; `remit run {one.what}` starts it"
    try:
        with urlopen(Request(f"{url}{one.path}"), timeout=TIMEOUT_S):  # noqa: S310 - an address of the settings
            return _another(one, url)
    except HTTPError as error:
        with error:
            return well(one.what, f"It answers at {url}.") if _is(one, error) else _another(one, url)
    except (OSError, ValueError) as error:
        why = error.reason if isinstance(error, URLError) else error
        return broken(one.what, f"{url} does not answer: {type(why).__name__}.", do)


def _is(one: WebLook, error: HTTPError) -> bool:
    try:
        code = json.loads(error.read(ANSWER_BYTES_MAX))["code"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return error.code == HTTPStatus.UNAUTHORIZED and code == one.code


def _another(one: WebLook, url: str) -> Diagnosis:
    return broken(one.what, f"What answers at {url} is no {one.title} of Remit.", f"mend {one.named}")
