"""The settings of this service, besides those that every service has."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from services.payment_gateway.domain import Policy
from services.payment_gateway.gateways.choose import Mode, open_gateway
from services.payment_gateway.gateways.port import Gateway
from shared.card_data.encryption import CardKeyring, read_unambiguous
from shared.private_files import SharedFileError, open_private
from shared.service import ServiceSettings
from shared.settings import BY_COMMAS, ConfigurationError, DatabaseUrl, Settings, database_url, variable

TIMEOUT_S = 10.0
"""Timeout of one request to the gateway. Card payments take one to three seconds. A payment that takes ten is in doubt anyway."""
CALLS_IN_FLIGHT = 200
"""Calls to the gateway at the same time. With answers in 200 ms they are 1 000 calls a second. Each takes a connection and a few
kilobytes."""
LADDER_S = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 3_600.0, 7_200.0, 14_400.0)
"""The waits before each further attempt. Most doubts end within seconds. If the gateway is silent for hours, a person must decide: after
eight hours, or after three while the saga inquires every hour, because each inquiry takes a rung (`store.hurry`)."""
LEASE_MARGIN_S = 10.0
"""How much longer a lease is than the longest call, so that the answer can be recorded. Payments of a crashed instance wait that much
longer."""
SIGNING = "whsec_"
"""The beginning of the secrets by which Stripe signs webhooks."""
REQUESTS_PER_S: dict[Mode, int] = {"live": 80, "test": 20, "benchmark": 100_000}
"""Calls a second, to all endpoints together. Stripe takes 100 requests a second in live mode and 25 in test mode
(https://docs.stripe.com/rate-limits), and the account may have other users."""
ENDPOINT_REQUESTS_PER_S: dict[Mode, int] = {"live": 20, "test": 20, "benchmark": 100_000}
"""Calls a second to each endpoint. Stripe takes 25 requests a second."""
REQUESTS_PER_S_MAX = 100_000
RUNGS_MAX = 40
RUNG_MAX_S = 86_400.0
REMIND_S = 3_600.0
"""How often a case that waits for a person is asked about at the gateway and announced again. So a new staff queue, after the old one was
deleted, gets it within the hour. A late capture is announced again as often, until it is refunded."""

FIND_AFTER_S = 3_600.0
"""The age of a request from which its payment is first looked for at the gateway. Until then the idempotency keys find what we forgot."""
FIND_AFTER_MAX_S = 72_000.0
"""Well below the 24 hours after which a gateway may delete idempotency keys. The rest is for clocks that differ, and waits for a turn."""

WATCH_S = 86_400.0
"""How often the gateway is asked about a person's decision, after the ladder, until it agrees. Decisions are rare, so it costs nothing."""
REFUND_LOOKS_S = (3_600.0, 86_400.0, 172_800.0, 345_600.0, 604_800.0, 1_382_400.0)
"""The waits before each look at a refund: thirty days in all. A bank that sends a refund back mostly does so in the first days."""
CANCEL_LOOKS_S = (86_400.0,)
"""The waits before each look at a payment that was cancelled at the gateway: one look, a day later."""
CAPTURE_LOOKS_S: tuple[float, ...] = ()
"""The waits before each look at a capture: none. `remit reconcile --look`, every night, and events of the gateway tell which to look at."""
LOOKS_MAX = 40
LOOK_MAX_S = 30 * 86_400.0


Ladder = Annotated[tuple[Annotated[float, Field(gt=0, le=RUNG_MAX_S)], ...], BY_COMMAS]
Looks = Annotated[tuple[Annotated[float, Field(gt=0, le=LOOK_MAX_S)], ...], BY_COMMAS]


class GatewaySettings(Settings):
    """The settings of the gateway and of charging."""

    others: ClassVar[Sequence[str]] = ("ALL_PROXY", "HTTP_PROXY", "all_proxy", "http_proxy", "https_proxy", "no_proxy")

    gateway_url: str = variable(
        "GATEWAY_URL",
        must="https://api.stripe.com or another address without a path",
        about="The gateway. `memory://` is for benchmarks.",
    )
    gateway_api_key: str = variable(
        "GATEWAY_API_KEY",
        "",
        secret=True,
        must="a secret (sk_) or restricted (rk_) key",
        unset="none, for `memory://`",
        about="A restricted key of the gateway ([its permissions](README.md#the-key-of-the-gateway)).",
    )
    mode: Mode = variable(
        "GATEWAY_MODE",
        "test",
        about="The key, and all that the gateway answers, must be of this mode. `benchmark` is for `memory://`, which charges nobody.",
    )
    ca_file: Path | None = variable(
        "GATEWAY_CA_FILE",
        None,
        must="the path of a file with certificates (PEM)",
        unset="none",
        about="Certificates to trust besides the usual ones, for a proxy that opens TLS.",
    )
    https_proxy: str = variable(
        "HTTPS_PROXY",
        "",
        must="http://host:port",
        unset="none",
        about="The proxy to the gateway. The standard library reads it, and `https_proxy` as well.",
    )
    no_proxy: str = variable(
        "NO_PROXY",
        "",
        must="hosts, separated by commas",
        unset="none",
        about="The hosts that need no proxy. The standard library reads it, and `no_proxy` as well.",
    )
    timeout_s: float = variable("GATEWAY_TIMEOUT_S", TIMEOUT_S, ge=0.05, le=120.0, about="Timeout of one request.")
    calls_in_flight: int = variable(
        "GATEWAY_CALLS_IN_FLIGHT",
        CALLS_IN_FLIGHT,
        ge=1,
        le=10_000,
        about="Calls at once, of one instance. What limits payments/s at a slow gateway.",
    )
    requests_per_s: int | None = variable(
        "GATEWAY_REQUESTS_PER_S",
        None,
        ge=1,
        le=REQUESTS_PER_S_MAX,
        must=f"a whole number from 1 to {REQUESTS_PER_S_MAX}",
        unset=f"{REQUESTS_PER_S['live']} in live mode, {REQUESTS_PER_S['test']} in test mode",
        about="Calls a second to all endpoints of the gateway, of one instance ([pace](README.md#the-pace-of-the-calls)).",
    )
    endpoint_requests_per_s: int | None = variable(
        "GATEWAY_ENDPOINT_REQUESTS_PER_S",
        None,
        ge=1,
        le=REQUESTS_PER_S_MAX,
        must=f"a whole number from 1 to {REQUESTS_PER_S_MAX}",
        unset=f"{ENDPOINT_REQUESTS_PER_S['live']}",
        about="Calls a second to each endpoint, of one instance.",
    )
    ladder_s: Ladder = variable(
        "GATEWAY_LADDER_S",
        LADDER_S,
        min_length=1,
        max_length=RUNGS_MAX,
        about="The waits before each further attempt, by default about 8 h in all.",
    )
    lease_margin_s: float = variable(
        "GATEWAY_LEASE_MARGIN_S",
        LEASE_MARGIN_S,
        ge=0.1,
        le=3_600.0,
        about="Time that a lease has beyond the longest call. The payments of a crashed instance wait that much longer.",
    )
    remind_s: float = variable(
        "GATEWAY_REMIND_S",
        REMIND_S,
        ge=0.1,
        le=RUNG_MAX_S,
        about="How often a case that waits for a person, and a late capture, is announced again.",
    )
    find_after_s: float = variable(
        "GATEWAY_FIND_AFTER_S",
        FIND_AFTER_S,
        ge=0.0,
        le=FIND_AFTER_MAX_S,
        about="The age of a request from which its payment is first looked for at the gateway: it may have been begun before a restore. "
        "The clocks of invoice and payment_gateway may differ by a day less this time: 23 hours by default.",
    )
    watch_s: float = variable(
        "GATEWAY_WATCH_S",
        WATCH_S,
        ge=0.1,
        le=LOOK_MAX_S,
        about="How often, after the ladder, the gateway is asked whether it agrees with a person's decision, until it does.",
    )
    refund_looks_s: Looks = variable(
        "GATEWAY_REFUND_LOOKS_S",
        REFUND_LOOKS_S,
        min_length=1,
        max_length=LOOKS_MAX,
        about="The waits before each look at a refund, which a bank may still send back: by default thirty days in all.",
    )
    cancel_looks_s: Looks = variable(
        "GATEWAY_CANCEL_LOOKS_S",
        CANCEL_LOOKS_S,
        min_length=1,
        max_length=LOOKS_MAX,
        about="The waits before each look at a payment that was cancelled at the gateway.",
    )
    capture_looks_s: Looks = variable(
        "GATEWAY_CAPTURE_LOOKS_S",
        CAPTURE_LOOKS_S,
        max_length=LOOKS_MAX,
        unset="it is looked at only when somebody asks",
        about="The waits before each look at a capture: one request a payment each. Not needed where `remit reconcile --look` runs every "
        "night: it finds disputes and refunds in the gateway's dashboard, and so do the gateway's events.",
    )
    webhook_port: int = variable(
        "GATEWAY_WEBHOOK_PORT",
        0,
        ge=0,
        le=65_535,
        about="Where [events of the gateway](README.md#events-of-the-gateway) arrive; 0: nowhere.",
    )
    webhook_host: str = variable(
        "GATEWAY_WEBHOOK_HOST", "127.0.0.1", must="an address of this machine", about="The address to listen on."
    )
    webhook_secrets: str = variable(
        "GATEWAY_WEBHOOK_SECRETS",
        "",
        secret=True,
        must=f"one or more signing secrets ({SIGNING}...), separated by commas",
        unset="none, without a port",
        about="The secrets that sign these events: two while one replaces the other.",
    )
    card_keys_file: str = variable(
        "CARD_KEYS_FILE",
        "",
        must="the path of a private JWK set, which nobody else can read or change",
        unset="encrypted cards are refused",
        about="The keys for encrypted cards (`remit card keys` makes them). Mode 0600; or 0440 if the file belongs to somebody else and "
        "to a group of the process, as Kubernetes mounts a secret with `fsGroup` and `defaultMode: 0440`.",
    )

    def check(self) -> None:
        """Raise `ConfigurationError` for keys and secrets that cannot be used."""
        _ = self.charging

    @cached_property
    def charging(self) -> "ChargingSettings":
        """What these settings say about charging; reads the file with the card keys, once: to check a key takes a tenth of a second.
        Raises `ConfigurationError`."""
        return ChargingSettings(
            gateway_url=self.gateway_url,
            gateway_api_key=self.gateway_api_key,
            timeout_s=self.timeout_s,
            calls_in_flight=self.calls_in_flight,
            policy=Policy(
                ladder_s=self.ladder_s,
                remind_s=self.remind_s,
                find_after_s=self.find_after_s,
                watch_s=self.watch_s,
                refund_looks_s=self.refund_looks_s,
                cancel_looks_s=self.cancel_looks_s,
                capture_looks_s=self.capture_looks_s,
            ),
            keyring=_keyring(self.card_keys_file),
            lease_margin_s=self.lease_margin_s,
            mode=self.mode,
            ca_file=self.ca_file,
            webhooks=self._webhooks(),
            requests_per_s=self.requests_per_s or REQUESTS_PER_S[self.mode],
            endpoint_requests_per_s=self.endpoint_requests_per_s or ENDPOINT_REQUESTS_PER_S[self.mode],
        )

    def _webhooks(self) -> "WebhookSettings | None":
        if not self.webhook_port:
            return None
        secrets = tuple(secret.strip() for secret in self.webhook_secrets.split(","))
        if not all(secret.startswith(SIGNING) and len(secret) > len(SIGNING) for secret in secrets):
            raise ConfigurationError(
                f"GATEWAY_WEBHOOK_SECRETS must be one or more signing secrets ({SIGNING}...), separated by commas."
            )
        return WebhookSettings(self.webhook_host, self.webhook_port, secrets)


class PaymentGatewaySettings(ServiceSettings, GatewaySettings):
    """The settings of the payment-gateway service."""

    name: str = "payment_gateway"
    database_url: DatabaseUrl = database_url("payment_gateway")


SETTINGS = PaymentGatewaySettings


class ReconcileSettings(GatewaySettings):
    """The settings of `remit reconcile`, which needs no broker."""

    database_url: DatabaseUrl = database_url("payment_gateway")


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where webhooks are received, and the secrets that sign them: two while one replaces the other."""

    host: str
    port: int
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChargingSettings:
    """What charging needs, made of the settings."""

    gateway_url: str
    gateway_api_key: str = field(repr=False)
    timeout_s: float
    calls_in_flight: int
    policy: Policy
    keyring: CardKeyring | None
    lease_margin_s: float = LEASE_MARGIN_S
    mode: Mode = "test"
    ca_file: Path | None = None
    webhooks: WebhookSettings | None = None
    requests_per_s: int = REQUESTS_PER_S["test"]
    endpoint_requests_per_s: int = ENDPOINT_REQUESTS_PER_S["test"]

    def open_gateway(self) -> Gateway:
        """Open the gateway. Must be called inside the running event loop. Raises `ConfigurationError`."""
        try:
            return open_gateway(
                self.gateway_url,
                api_key=self.gateway_api_key,
                timeout_s=self.timeout_s,
                connections=self.calls_in_flight,
                mode=self.mode,
                takes_cards=self.keyring is not None,
                ca_file=self.ca_file,
            )
        except ValueError as error:
            raise ConfigurationError(f"GATEWAY_URL, GATEWAY_API_KEY, GATEWAY_MODE: {error}.") from None


def _keyring(path: str) -> CardKeyring | None:
    """The card keys in the file at `path`, or None without a path. Without keys, payments with encrypted cards are refused."""
    if not path:
        return None
    try:
        return read_card_keys(Path(path))
    except ValueError as error:
        raise ConfigurationError(f"CARD_KEYS_FILE {error}.") from None


def read_card_keys(path: Path) -> CardKeyring:
    """The card keys in the file. Raises ValueError, whose text follows the name of the file and has no full stop."""
    try:
        with os.fdopen(open_private(path, is_of_others=True), "rb") as file:
            jwks = read_unambiguous(file.read())
    except SharedFileError as error:
        raise ValueError(f"{error}, and take new keys if others may have read these") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError("is not JSON: it must hold a private JWK set") from None
    if not isinstance(jwks, dict):
        raise ValueError("must hold a private JWK set")  # noqa: TRY004 - a mistake in a file
    try:
        return CardKeyring.load(jwks)
    except ValueError as error:
        raise ValueError(f"holds what is no key for cards: {error}") from None
