"""What this service reads from the environment, beside what every service reads."""

from dataclasses import dataclass
from pathlib import Path

import orjson

from services.payment_gateway.domain import Policy
from services.payment_gateway.gateways.choose import open_gateway
from services.payment_gateway.gateways.port import Gateway
from shared.card_data.encryption import CardKeyring
from shared.settings import ConfigurationError, EnvironmentVariables

TIMEOUT_S = 10.0
"""Card payments take one to three seconds; what takes ten is in doubt anyway."""
CALLS_IN_FLIGHT = 200
"""At a gateway that answers in 200 ms this makes 1 000 calls a second; each holds a connection and a few kilobytes."""
LADDER_S = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 3_600.0, 7_200.0, 14_400.0)
"""Most doubts end within seconds; a gateway that is silent for hours needs a person: after eight, or after three while the saga asks
every hour, because each of its questions takes a rung (`store.hurry`)."""
LEASE_MARGIN_S = 10.0
"""What a lease leaves beyond the longest call, for recording its answer; a crashed instance's payments wait that much longer."""
RUNGS_MAX = 40
RUNG_MAX_S = 86_400.0
REMIND_S = 3_600.0
"""How often a case that waits for a person is asked about and published again: a deleted staff queue hears of it within the hour. A late
capture is published again as often, until it is refunded."""


@dataclass(frozen=True, slots=True)
class ChargingSettings:
    """GATEWAY_URL, GATEWAY_API_KEY, GATEWAY_TIMEOUT_S, GATEWAY_LEASE_MARGIN_S, GATEWAY_CALLS_IN_FLIGHT, GATEWAY_LADDER_S,
    GATEWAY_REMIND_S, CARD_KEYS_FILE."""

    gateway_url: str
    gateway_api_key: str
    timeout_s: float
    calls_in_flight: int
    policy: Policy
    keyring: CardKeyring | None
    lease_margin_s: float = LEASE_MARGIN_S

    @classmethod
    def read(cls, environment: EnvironmentVariables) -> "ChargingSettings":
        """Raises `ConfigurationError`, which names the variable and never shows a secret."""
        return cls(
            gateway_url=environment.text("GATEWAY_URL"),
            gateway_api_key=environment.text("GATEWAY_API_KEY", ""),
            timeout_s=environment.seconds("GATEWAY_TIMEOUT_S", TIMEOUT_S, least=0.05, most=120),
            calls_in_flight=environment.integer("GATEWAY_CALLS_IN_FLIGHT", CALLS_IN_FLIGHT, least=1, most=10_000),
            policy=Policy(
                ladder_s=environment.ladder_s("GATEWAY_LADDER_S", LADDER_S, steps_max=RUNGS_MAX, most=RUNG_MAX_S),
                remind_s=environment.seconds("GATEWAY_REMIND_S", REMIND_S, least=0.1, most=RUNG_MAX_S),
            ),
            keyring=_keyring(environment.text("CARD_KEYS_FILE", "")),
            lease_margin_s=environment.seconds("GATEWAY_LEASE_MARGIN_S", LEASE_MARGIN_S, least=0.1, most=3_600),
        )

    def open_gateway(self) -> Gateway:
        """Inside the running loop. Raises `ConfigurationError`."""
        try:
            return open_gateway(
                self.gateway_url,
                api_key=self.gateway_api_key,
                timeout_s=self.timeout_s,
                connections=self.calls_in_flight,
            )
        except ValueError as error:
            raise ConfigurationError(f"GATEWAY_URL, GATEWAY_API_KEY: {error}.") from None


def _keyring(path: str) -> CardKeyring | None:
    """None without a file: then encrypted cards are refused, with a reason."""
    if not path:
        return None
    try:
        jwks = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"CARD_KEYS_FILE cannot be read: {error.strerror}.") from None
    except orjson.JSONDecodeError:
        raise ConfigurationError("CARD_KEYS_FILE is not JSON: it must hold a private JWK set.") from None
    if not isinstance(jwks, dict):
        raise ConfigurationError("CARD_KEYS_FILE must hold a private JWK set.")
    try:
        return CardKeyring.load(jwks)
    except ValueError as error:
        raise ConfigurationError(f"CARD_KEYS_FILE: {error}.") from None
