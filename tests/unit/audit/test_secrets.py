"""The search for secrets finds what is planted behind every encoding, and passes healthy texts."""

import base64
import json
import time
from collections.abc import Callable
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.secrets import secret_in

CARD, CVV, KEY = "number 4242-4242-4242-4242 of", '{"cvc": "123", "n": 1}', "-----BEGIN RSA PRIVATE KEY-----"
SECRETS = {
    CARD: "a card number",
    CVV: "a card security code",
    KEY: "a private key",
    "Bearer sk_live_51Habcdefgh": "a gateway's secret key",
    '{"kty": "EC", "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}': "a private JSON Web Key",
    "cannot reach amqp://remit:hunter2@broker:5672/": "a password in a URL",
}


def url_encoded(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "url": url_encoded,
    "base64": in_base64,
    "base64 within a word": lambda text: f"prefix{in_base64(text)}",
    "url-safe base64": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "hexadecimal": lambda text: text.encode().hex(),
    "json escapes": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "entities": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "base64 of url": lambda text: in_base64(url_encoded(text)),
}


@pytest.mark.parametrize(("text", "kind"), SECRETS.items())
def test_a_secret_is_found(text: str, kind: str) -> None:
    assert secret_in(text) == kind
    assert secret_in(f'{{"id": "{uuid4()}", "detail": {json.dumps(text)}}}') == kind


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_found_behind_an_encoding(text: str, encoding: str) -> None:
    found = secret_in(f"evidence: {ENCODINGS[encoding](text)} and more")
    assert found is not None
    assert found.removesuffix(", encoded") == SECRETS[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "remit.payment_gateway.PaymentCaptured.v1.case",
        "2026-11-22T12:00:00.123456+00:00",
        "pi_68a1f0c29d3e4b5a60718293",
        "[card number] *** sk_test_*** amqp://remit:***@broker/",
        "RABBITMQ_URL is not set: it must be a URL such as amqp://user:password@host:5672/.",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        '{"amount_minor": 999999999999, "version": 3}',
        '{"code": "402", "decline_code": "do_not_honor"}',
    ],
)
def test_a_healthy_text_passes(text: str) -> None:
    assert secret_in(text) is None


@given(st.lists(st.uuids(), max_size=5))
def test_ids_are_no_card_numbers(ids: list[object]) -> None:
    assert secret_in(json.dumps([str(id_) for id_ in ids])) is None


def test_a_long_text_takes_time_in_proportion() -> None:
    """Ten times the length takes about ten times as much of this thread's time; quadratic work would take a hundred times."""

    def seconds(length: int) -> float:
        text = ("A%4" + "\\" * 5 + "&#" + "1 2-" + "a" * 13) * length
        started = time.thread_time()
        secret_in(text)
        return time.thread_time() - started

    seconds(10)
    assert seconds(5_000) < 50 * max(seconds(500), 0.001)
