"""The doctor's look at the staff desk: whether it answers, and is one."""

import asyncio
import json
from http import HTTPStatus
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from deploy.doctor.diagnosis import Diagnosis, broken, well

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024


async def look_at_desk(url: str) -> Diagnosis:
    """Ask it something without saying who asks: a desk answers that one has to sign in."""
    return await asyncio.to_thread(_look, url)


def _look(url: str) -> Diagnosis:
    do = "look at its log; `remit run desk` starts it"
    try:
        with urlopen(Request(f"{url}/api/v1/words"), timeout=TIMEOUT_S):  # noqa: S310 - an address of the settings
            return _another(url)
    except HTTPError as error:
        with error:
            return well("desk", f"It answers at {url}.") if _is_desk(error) else _another(url)
    except (OSError, ValueError) as error:
        why = error.reason if isinstance(error, URLError) else error
        return broken("desk", f"{url} does not answer: {type(why).__name__}.", do)


def _is_desk(error: HTTPError) -> bool:
    try:
        code = json.loads(error.read(ANSWER_BYTES_MAX))["code"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return error.code == HTTPStatus.UNAUTHORIZED and code == "signed_out"


def _another(url: str) -> Diagnosis:
    return broken("desk", f"What answers at {url} is no staff desk of Remit.", "mend REMIT_DESK_URL or DESK_URL")
