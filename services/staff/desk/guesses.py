"""How often a password may be guessed: where one signs in, and where one gives oneself another."""

from starlette.requests import Request

from services.staff.desk.problems import too_often
from shared.clock import Clock
from shared.web.limiter import Limiter, network_of_client

NAME_HERE_BURST, NAME_HERE_EVERY_S = 5, 12.0
"""Tries at one name from one network: five, then five a minute. A guess of a password takes years, and its owner waits for seconds."""
NAME_BURST, NAME_EVERY_S = 50, 6.0
"""Tries at one name from all networks together. It is more, so that a stranger does not keep the owner of the name out."""
NETWORK_BURST, NETWORK_EVERY_S = 20, 3.0


class Guesses:
    """Counts tries at passwords, in this process."""

    def __init__(self, clock: Clock) -> None:
        self._here = Limiter(burst=NAME_HERE_BURST, every_s=NAME_HERE_EVERY_S, clock=clock)
        self._by_name = Limiter(burst=NAME_BURST, every_s=NAME_EVERY_S, clock=clock)
        self._by_network = Limiter(burst=NETWORK_BURST, every_s=NETWORK_EVERY_S, clock=clock)

    def check(self, request: Request, name: str) -> None:
        """Count one try at this name. Raises `Refused` if it is one too many."""
        self.check_network(request)
        for limiter, key in ((self._here, _here(request, name)), (self._by_name, name.lower())):
            if (wait_s := limiter.wait_s(key)) > 0:
                raise too_often(wait_s)

    def check_network(self, request: Request) -> None:
        """Count one try from this network. Raises `Refused` if it is one too many."""
        if (wait_s := self._by_network.wait_s(network_of_client(request))) > 0:
            raise too_often(wait_s)

    def was_right(self, request: Request, name: str) -> None:
        """Forget the tries at this name from here, because the last one was no guess."""
        self._here.forget(_here(request, name))


def _here(request: Request, name: str) -> str:
    return f"{network_of_client(request)} {name.lower()}"
