"""Listens for the gateway's webhooks. An event only says which payment to look at now, and what is true is then asked of the gateway.

So an event that is forged, stale, repeated or out of order changes nothing. The answer is 200 only once the look is stored: whatever gets
another answer the gateway sends again, for days. The endpoint is off unless GATEWAY_WEBHOOK_PORT is set.
"""

import asyncio
from enum import StrEnum
from typing import Final

import structlog
from aiohttp import web

from services.payment_gateway import store
from services.payment_gateway.charging import Charging
from services.payment_gateway.domain import CHARGED, FAILED
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.stripe_events import (
    ForeignEventError,
    ForgedEventError,
    Shows,
    Sighting,
    read_event,
)
from services.payment_gateway.settings import WebhookSettings
from services.payment_gateway.store import RowState
from shared.http_server import HttpServer, reason_of, serve
from shared.observability import metrics
from shared.outage_log import OutageLog
from shared.persistence.database import AWAY_ERRORS, Database
from shared.settings import ConfigurationError

log = structlog.get_logger(__name__)

PATH: Final = "/webhooks"
BODY_BYTES_MAX: Final = 256 * 1024
"""An event has a few kilobytes. The largest hold all that a PaymentIntent can hold."""
TIMEOUT_S: Final = 10.0
"""Who sends an event more slowly is not the gateway. The gateway waits longer than that for its answer."""
AT_WORK_MAX: Final = 100
"""Events in memory at most. The gateway sends the others again, later."""
LOOKS_AT_ONCE: Final = 4
"""Connections to the database and to the gateway that events may use. The others are for payments."""


class Seen(StrEnum):
    """What became of an event. The first three are final."""

    LOOKED = "looked"  # its payment is looked at now
    NOTHING_NEW = "nothing_new"  # our books show that already
    FOREIGN = "foreign"  # it is of no payment of ours
    FORGED = "forged"
    TOO_LARGE = "too_large"
    BUSY = "busy"  # not now: an instance works on the payment, or there are too many events
    AWAY = "away"  # not now: the database or the gateway is away


_HTTP_STATUS: Final = {Seen.FORGED: 400, Seen.TOO_LARGE: 413, Seen.BUSY: 503, Seen.AWAY: 503}


class Webhooks:
    """The endpoint. `run` listens until it is cancelled."""

    def __init__(self, settings: WebhookSettings, charging: Charging, database: Database, *, livemode: bool) -> None:
        self._settings = settings
        self._charging = charging
        self._database = database
        self._livemode = livemode
        self._at_work = 0
        self._looks = asyncio.Semaphore(LOOKS_AT_ONCE)
        self._counters = {
            seen: metrics.WEBHOOKS.labels(outcome=seen) for seen in Seen
        }  # at 0, so that the first one is a rise
        self._outage = OutageLog(log, "webhook_not_taken", "webhooks_taken_again")
        self._server = HttpServer(None)

    @property
    def listens_on(self) -> int:
        """The port it listens on."""
        return self._server.addresses[0][1]

    async def listen(self) -> None:
        """Open the port. Raises `ConfigurationError` if that is impossible."""
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post(PATH, self._receive)
        try:
            self._server = await serve(app, self._settings.host, self._settings.port)
        except OSError as error:
            raise ConfigurationError(f"GATEWAY_WEBHOOK_PORT cannot be opened: {reason_of(error)}.") from None

    async def run(self) -> None:
        """Answer events until cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._server.close()

    async def _receive(self, request: web.Request) -> web.Response:
        seen = await self._seen(request)
        self._counters[seen].inc()
        return web.Response(status=_HTTP_STATUS.get(seen, 200), text=f"{seen}\n")

    async def _seen(self, request: web.Request) -> Seen:
        if self._at_work >= AT_WORK_MAX:
            return Seen.BUSY
        self._at_work += 1
        try:
            body, signature = await _body_of(request), request.headers.get("Stripe-Signature", "")
            async with asyncio.timeout(TIMEOUT_S):
                return await self._look(read_event(body, signature, self._settings.secrets, livemode=self._livemode))
        except web.HTTPRequestEntityTooLarge:
            return Seen.TOO_LARGE
        except ForgedEventError:
            return Seen.FORGED
        except ForeignEventError as why:
            log.debug("webhook_of_others", reason=str(why))
            return Seen.FOREIGN
        except AWAY_ERRORS as error:
            self._outage.failed(error)
            return Seen.AWAY
        finally:
            self._at_work -= 1

    async def _look(self, sighting: Sighting) -> Seen:
        """Make the payment due now, unless its row shows what the event says."""
        async with self._looks:
            owner = port.MadeFor(sighting.payment_id) if sighting.payment_id else await self._owner(sighting.gateway_id)
            if isinstance(owner, port.NoAnswer):
                return Seen.AWAY
            if owner.payment_id is None:
                return Seen.FOREIGN
            async with self._database.transaction() as tx:
                state = await store.state_of(tx, owner.payment_id, sighting.gateway_id)
                seen = what_to_do(sighting.shows, state)
                if seen is Seen.LOOKED:
                    await store.hurry(tx, [owner.payment_id])
        self._outage.succeeded()
        if seen is Seen.LOOKED:
            self._charging.wake()
        return seen

    async def _owner(self, gateway_id: str) -> port.MadeFor | port.NoAnswer:
        answer = await self._charging.gateway.owner(gateway_id)
        return port.MadeFor(None) if isinstance(answer, port.NotFound) else answer


async def _body_of(request: web.Request) -> bytes:
    """The body as it came. Raises ForgedEventError if it does not come whole: then nobody has signed what is there."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await request.read()
    except (TimeoutError, web.RequestPayloadError):
        raise ForgedEventError from None


def what_to_do(shows: Shows, state: RowState | None) -> Seen:
    """What an event leads to, by what the row of its payment shows.

    Stripe tells of every capture, and most are the answer to a call of ours that is under way or was just recorded. Those need no look. If
    that answer is lost, the payment is in doubt and is looked at anyway.
    """
    if state is None:
        return Seen.FOREIGN
    if shows is Shows.CAPTURE and (state.is_held or state.status in CHARGED):
        return Seen.NOTHING_NEW
    if shows is Shows.NO_CAPTURE and (state.is_held or state.status in FAILED):
        return Seen.NOTHING_NEW
    return Seen.BUSY if state.is_held else Seen.LOOKED
