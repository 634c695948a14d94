"""`python -m services.payment_gateway` runs the service."""

from pathlib import Path

from services.payment_gateway import ledger, store
from services.payment_gateway.books import BOOKS
from services.payment_gateway.charging import Charging, lease_for
from services.payment_gateway.gateway_watch import GatewayWatch
from services.payment_gateway.gateways.port import Gateway
from services.payment_gateway.group_commit import GroupCommit
from services.payment_gateway.handlers import PaymentHandler, RequestHandler
from services.payment_gateway.lease_claimer import LeaseClaimer
from services.payment_gateway.pace import Pace, follow_up_within_s
from services.payment_gateway.settings import ChargingSettings, PaymentGatewaySettings
from services.payment_gateway.tracing import GatewayTracing
from services.payment_gateway.webhooks import Webhooks
from shared.ids import new_id
from shared.observability import metrics
from shared.service import Runtime, run_service

MIGRATIONS = Path(__file__).parent / "migrations"


async def assemble(runtime: Runtime) -> None:
    """Assemble the service with the gateway that its settings name. Raises `ConfigurationError`."""
    settings = runtime.settings_as(PaymentGatewaySettings).charging
    charging = assemble_with(runtime, settings, settings.open_gateway())
    if settings.webhooks is not None:
        webhooks = Webhooks(settings.webhooks, charging, runtime.database, livemode=settings.mode == "live")
        await webhooks.listen()
        runtime.run_beside("webhooks", webhooks.run)


def assemble_with(runtime: Runtime, settings: ChargingSettings, gateway: Gateway) -> Charging:
    """Assemble the service with `gateway`: two queues, the payments at work, and the group commit that records their results."""
    lease = lease_for(new_id(), settings.timeout_s, settings.lease_margin_s)
    commit = GroupCommit(
        database=runtime.database,
        relay=runtime.relay,
        readiness=runtime.readiness,
        lease=lease,
        policy=settings.policy,
        liveness=runtime.liveness,
    )
    watch = GatewayWatch(gateway, runtime.readiness, timeout_s=settings.timeout_s)
    follow_up_s = follow_up_within_s(settings.lease_margin_s)
    pace = Pace(settings.requests_per_s, settings.endpoint_requests_per_s, follow_up_s)
    gateway.pace_by(pace.follow_up)
    charging = Charging(
        gateway=gateway,
        keyring=settings.keyring,
        policy=settings.policy,
        lease=lease,
        calls_in_flight=settings.calls_in_flight,
        call_timeout_s=settings.timeout_s,
        database=runtime.database,
        commit=commit,
        readiness=runtime.readiness,
        clock=runtime.clock,
        watch=watch,
        pace=pace,
        tracing=None if runtime.tracer is None else GatewayTracing(runtime.tracer, settings.gateway_url),
    )
    runtime.consume("payment_gateway.requests", RequestHandler(charging))
    runtime.consume("payment_gateway.commands", PaymentHandler(charging))
    runtime.run_beside("record", commit.run)
    runtime.run_beside("publish", commit.publish)
    claimer = LeaseClaimer(charging, runtime.database, runtime.readiness)
    runtime.in_background(claimer, wait=claimer.wait)
    runtime.in_background(watch, wait=watch.wait)
    runtime.sample(store.due_reading(claimer.due), store.IN_DOUBT, store.MONEY)
    runtime.vitals.count_overdue = store.count_overdue
    runtime.vitals.leases_held = charging.at_work
    metrics.GATEWAY_PACE.follow(lambda: pace.speed)
    runtime.add_retention(ledger.ATTEMPTS_RETENTION)
    runtime.on_drain(charging.finish)
    runtime.seal(BOOKS)
    return charging


def main() -> None:
    """Run the service until it is told to stop."""
    run_service(PaymentGatewaySettings, MIGRATIONS, assemble)


if __name__ == "__main__":
    main()
