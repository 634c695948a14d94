"""The settings of this service, besides those that every service has."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.payment_gateway.domain import Policy
from services.payment_gateway.gateways.choose import MODES, Mode, open_gateway
from services.payment_gateway.gateways.port import Gateway
from shared.card_data.encryption import CardKeyring, read_unambiguous
from shared.private_files import SharedFileError, open_private
from shared.settings import ConfigurationError, EnvironmentVariables

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

WATCH_S = 86_400.0
"""How often the gateway is asked about a person's decision, after the ladder, until it agrees. Decisions are rare, so it costs nothing."""
REFUND_LOOKS_S = (3_600.0, 86_400.0, 172_800.0, 345_600.0, 604_800.0, 1_382_400.0)
"""The waits before each look at a refund: thirty days in all. A bank that sends a refund back mostly does so in the first days."""
CANCEL_LOOKS_S = (86_400.0,)
"""The waits before each look at a payment that was cancelled at the gateway: one look, a day later."""
CAPTURE_LOOKS_S: tuple[float, ...] = ()
"""The waits before each look at a capture: none (see `afterwards`)."""
LOOKS_MAX = 40
LOOK_MAX_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where webhooks are received, and the secrets that sign them: two while one replaces the other.

    Environment variables: GATEWAY_WEBHOOK_HOST, GATEWAY_WEBHOOK_PORT, GATEWAY_WEBHOOK_SECRETS.
    """

    host: str
    port: int
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def read(cls, environment: EnvironmentVariables) -> "WebhookSettings | None":
        """Read the settings; None without a port. Raises `ConfigurationError`."""
        port = environment.integer("GATEWAY_WEBHOOK_PORT", 0, least=0, most=65_535)
        if not port:
            return None
        secrets = tuple(secret.strip() for secret in environment.text("GATEWAY_WEBHOOK_SECRETS").split(","))
        if not all(secret.startswith(SIGNING) and len(secret) > len(SIGNING) for secret in secrets):
            raise ConfigurationError(
                f"GATEWAY_WEBHOOK_SECRETS must be one or more signing secrets ({SIGNING}...), separated by commas."
            )
        return cls(environment.text("GATEWAY_WEBHOOK_HOST", "127.0.0.1"), port, secrets)


@dataclass(frozen=True, slots=True)
class ChargingSettings:
    """The settings of the gateway and of charging.

    Environment variables: GATEWAY_URL, GATEWAY_API_KEY, GATEWAY_MODE, GATEWAY_CA_FILE, GATEWAY_TIMEOUT_S, GATEWAY_LEASE_MARGIN_S,
    GATEWAY_CALLS_IN_FLIGHT, GATEWAY_REQUESTS_PER_S, GATEWAY_ENDPOINT_REQUESTS_PER_S, GATEWAY_LADDER_S, GATEWAY_REMIND_S, GATEWAY_WATCH_S,
    GATEWAY_REFUND_LOOKS_S, GATEWAY_CANCEL_LOOKS_S, GATEWAY_CAPTURE_LOOKS_S, CARD_KEYS_FILE, and those of `WebhookSettings`. The adapter of
    Stripe reads HTTPS_PROXY and NO_PROXY.
    """

    gateway_url: str
    gateway_api_key: str
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

    @classmethod
    def read(cls, environment: EnvironmentVariables) -> "ChargingSettings":
        """Read the settings. Raises `ConfigurationError`, which names the variable and never shows a secret."""
        mode = _mode(environment.text("GATEWAY_MODE", "test"))
        return cls(
            gateway_url=environment.text("GATEWAY_URL"),
            gateway_api_key=environment.text("GATEWAY_API_KEY", ""),
            timeout_s=environment.seconds("GATEWAY_TIMEOUT_S", TIMEOUT_S, least=0.05, most=120),
            calls_in_flight=environment.integer("GATEWAY_CALLS_IN_FLIGHT", CALLS_IN_FLIGHT, least=1, most=10_000),
            policy=_policy(environment),
            keyring=_keyring(environment.text("CARD_KEYS_FILE", "")),
            lease_margin_s=environment.seconds("GATEWAY_LEASE_MARGIN_S", LEASE_MARGIN_S, least=0.1, most=3_600),
            mode=mode,
            ca_file=Path(ca_file) if (ca_file := environment.text("GATEWAY_CA_FILE", "")) else None,
            webhooks=WebhookSettings.read(environment),
            requests_per_s=environment.integer(
                "GATEWAY_REQUESTS_PER_S", REQUESTS_PER_S[mode], least=1, most=REQUESTS_PER_S_MAX
            ),
            endpoint_requests_per_s=environment.integer(
                "GATEWAY_ENDPOINT_REQUESTS_PER_S", ENDPOINT_REQUESTS_PER_S[mode], least=1, most=REQUESTS_PER_S_MAX
            ),
        )

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


def _policy(environment: EnvironmentVariables) -> Policy:
    looks: dict[str, Any] = {"steps_max": LOOKS_MAX, "most": LOOK_MAX_S}
    return Policy(
        ladder_s=environment.ladder_s("GATEWAY_LADDER_S", LADDER_S, steps_max=RUNGS_MAX, most=RUNG_MAX_S),
        remind_s=environment.seconds("GATEWAY_REMIND_S", REMIND_S, least=0.1, most=RUNG_MAX_S),
        watch_s=environment.seconds("GATEWAY_WATCH_S", WATCH_S, least=0.1, most=LOOK_MAX_S),
        refund_looks_s=environment.ladder_s("GATEWAY_REFUND_LOOKS_S", REFUND_LOOKS_S, **looks),
        cancel_looks_s=environment.ladder_s("GATEWAY_CANCEL_LOOKS_S", CANCEL_LOOKS_S, **looks),
        capture_looks_s=environment.ladder_s("GATEWAY_CAPTURE_LOOKS_S", CAPTURE_LOOKS_S, **looks),
    )


def _mode(text: str) -> Mode:
    for mode in MODES:
        if mode == text:
            return mode
    raise ConfigurationError(f"GATEWAY_MODE must be one of {', '.join(MODES)}.")


def _keyring(path: str) -> CardKeyring | None:
    """The card keys in the file at `path`, or None without a path. Without keys, payments with encrypted cards are refused."""
    if not path:
        return None
    try:
        with os.fdopen(open_private(Path(path), is_of_others=True), "rb") as file:
            jwks = read_unambiguous(file.read())
    except SharedFileError as error:
        raise ConfigurationError(f"CARD_KEYS_FILE {error}, and take new keys if others may have read these.") from None
    except OSError as error:
        raise ConfigurationError(f"CARD_KEYS_FILE cannot be read: {error.strerror}.") from None
    except ValueError:
        raise ConfigurationError("CARD_KEYS_FILE is not JSON: it must hold a private JWK set.") from None
    if not isinstance(jwks, dict):
        raise ConfigurationError("CARD_KEYS_FILE must hold a private JWK set.")
    try:
        return CardKeyring.load(jwks)
    except ValueError as error:
        raise ConfigurationError(f"CARD_KEYS_FILE: {error}.") from None
