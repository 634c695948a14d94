"""Runs localstripe, a stand-in for Stripe that others wrote, as a process of its own."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOCALSTRIPE = """
import socket, sys
from aiohttp import web
from localstripe import resources

resources.Store.dump_to_disk = lambda store: None  # it would write one fixed path that all runs share

create = resources.PaymentIntent._api_create.__func__

def create_for_cards(cls, allowed_payment_method_types=None, **data):  # a parameter of 2026, younger than localstripe
    return create(cls, **data)

confirm = resources.PaymentIntent._api_confirm.__func__

def confirm_alone(cls, id, off_session=None, mandate=None, **data):  # it knows no customer who has gone, and asks nobody
    return confirm(cls, id, **data)

resources.PaymentIntent._api_create = classmethod(create_for_cards)
resources.PaymentIntent._api_confirm = classmethod(confirm_alone)
at = "/v1/payment_intents/{id}/confirm"
resources.extra_apis[:] = [(m, p, resources.PaymentIntent._api_confirm if p == at else api) for m, p, api in resources.extra_apis]

from localstripe import server  # it takes the routes as they are now

web.run_app(server.app, sock=socket.socket(fileno=int(sys.argv[1])), print=None)
"""


@contextmanager
def running_localstripe() -> Iterator[str]:
    """Its address. Its socket listens before it starts, so that nobody has to poll, and no other process can take the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        listener.set_inheritable(True)
        number = listener.fileno()
        child = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", LOCALSTRIPE, str(number)],
            pass_fds=[number],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield address
    finally:
        child.kill()
        child.wait()
