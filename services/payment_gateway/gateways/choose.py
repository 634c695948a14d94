"""Opens the gateway that a URL names. `https://api.stripe.com` and `http://127.0.0.1:PORT` (the sandbox) use the same adapter."""

from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qs, urlsplit

from services.payment_gateway.gateways.memory import MemoryGateway
from services.payment_gateway.gateways.port import Gateway
from services.payment_gateway.gateways.stripe import StripeGateway

MEMORY_LATENCY_MAX_MS = 60_000  # one minute: a larger number is probably a typing mistake


Mode = Literal["test", "live", "benchmark"]
MODES: tuple[Mode, ...] = get_args(Mode)


def open_gateway(
    url: str,
    *,
    api_key: str,
    timeout_s: float,
    connections: int,
    mode: Mode = "test",
    takes_cards: bool = False,
    ca_file: Path | None = None,
) -> Gateway:
    """Open the gateway at `url`: `memory://?latency_ms=20`, or the base address of an API like Stripe's.

    The gateway in memory charges nobody, so it is opened in the mode `benchmark` only, and nothing else is.

    Must be called inside a running event loop. Raises ValueError with one sentence for an operator, which never contains the key.
    """
    match urlsplit(url).scheme:
        case "memory" if mode != "benchmark":
            raise ValueError("memory:// charges nobody: it is for benchmarks, where GATEWAY_MODE is benchmark")
        case "http" | "https" if mode == "benchmark":
            raise ValueError("the mode benchmark is for memory:// only")
        case "memory":
            return MemoryGateway(_latency_ms(url) / 1000)
        case "http" | "https":
            if not api_key:
                raise ValueError(f"a gateway at {url} needs an API key")
            return StripeGateway(
                api_key=api_key,
                base_url=url,
                timeout_s=timeout_s,
                connections=connections,
                livemode=mode == "live",
                takes_cards=takes_cards,
                ca_file=ca_file,
            )
        case scheme:
            raise ValueError(f"a gateway URL begins with https://, http:// or memory://, not {scheme or url!r}")


def _latency_ms(url: str) -> float:
    text = parse_qs(urlsplit(url).query).get("latency_ms", ["0"])[-1]
    try:
        latency_ms = float(text)
    except ValueError:
        latency_ms = -1.0
    if not 0 <= latency_ms <= MEMORY_LATENCY_MAX_MS:
        raise ValueError(
            f"latency_ms of a memory gateway is a number of milliseconds up to {MEMORY_LATENCY_MAX_MS}, not {text!r}"
        )
    return latency_ms
