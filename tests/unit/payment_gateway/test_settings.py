"""A wrong setting gives one sentence that names the variable and shows no secret."""

import os
from pathlib import Path

import orjson
import pytest

from services.payment_gateway.domain import Policy
from services.payment_gateway.settings import (
    CANCEL_LOOKS_S,
    CAPTURE_LOOKS_S,
    LADDER_S,
    REFUND_LOOKS_S,
    REMIND_S,
    WATCH_S,
    ChargingSettings,
    GatewaySettings,
    WebhookSettings,
)
from shared.settings import ConfigurationError, EnvironmentVariables
from tests.support.card_keys import card_keys

MEMORY = {"GATEWAY_URL": "memory://?latency_ms=5", "GATEWAY_MODE": "benchmark"}


def read(**variables: str) -> ChargingSettings:
    return GatewaySettings.read(EnvironmentVariables(MEMORY | variables)).charging


def _key_file(folder: Path, content: bytes, *, mode: int = 0o600) -> Path:
    file = folder / "keys.json"
    file.write_bytes(content)
    file.chmod(mode)
    return file


def test_a_variable_that_is_not_set_has_a_default() -> None:
    settings = read()
    policy = Policy(LADDER_S, REMIND_S, WATCH_S, REFUND_LOOKS_S, CANCEL_LOOKS_S, CAPTURE_LOOKS_S)
    assert settings == ChargingSettings(
        MEMORY["GATEWAY_URL"],
        "",
        10.0,
        200,
        policy,
        None,
        mode="benchmark",
        requests_per_s=100_000,
        endpoint_requests_per_s=100_000,
    )
    assert read(GATEWAY_MODE="").mode == "test"


def test_the_pace_is_below_the_limits_that_stripe_publishes() -> None:
    paces = {mode: read(GATEWAY_MODE=mode) for mode in ("test", "live")}
    assert {m: (s.requests_per_s, s.endpoint_requests_per_s) for m, s in paces.items()} == {
        "test": (20, 20),
        "live": (80, 20),
    }
    assert read(GATEWAY_MODE="live", GATEWAY_REQUESTS_PER_S="40").requests_per_s == 40


@pytest.mark.parametrize("secrets", ["", "sk_test_1", "whsec_", "whsec_a,", "whsec_a,pk_test_1"])
def test_webhooks_need_signing_secrets(secrets: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^GATEWAY_WEBHOOK_SECRETS .*\.$") as told:
        read(GATEWAY_WEBHOOK_PORT="8090", GATEWAY_WEBHOOK_SECRETS=secrets)
    assert "_test_1" not in str(told.value)


def test_webhooks_are_off_without_a_port_and_loopback_only_by_default() -> None:
    assert read(GATEWAY_WEBHOOK_SECRETS="whsec_a").webhooks is None
    on = read(GATEWAY_WEBHOOK_PORT="8090", GATEWAY_WEBHOOK_SECRETS="whsec_a, whsec_b").webhooks
    assert on == WebhookSettings("127.0.0.1", 8090, ("whsec_a", "whsec_b"))
    assert "whsec" not in repr(on)


def test_the_ladder_can_be_short() -> None:
    assert read(GATEWAY_LADDER_S="0.5, 1,2").policy.ladder_s == (0.5, 1.0, 2.0)


def test_captures_are_looked_at_only_if_somebody_chooses_so() -> None:
    assert read(GATEWAY_CAPTURE_LOOKS_S="86400, 604800").policy.capture_looks_s == (86_400.0, 604_800.0)
    assert read(GATEWAY_CAPTURE_LOOKS_S=" ").policy.capture_looks_s == ()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_URL", ""),
        ("GATEWAY_MODE", "production"),
        ("GATEWAY_TIMEOUT_S", "soon"),
        ("GATEWAY_TIMEOUT_S", "0"),
        ("GATEWAY_LEASE_MARGIN_S", "0"),
        ("GATEWAY_CALLS_IN_FLIGHT", "0"),
        ("GATEWAY_REQUESTS_PER_S", "0"),
        ("GATEWAY_ENDPOINT_REQUESTS_PER_S", "many"),
        ("GATEWAY_LADDER_S", "1,x"),
        ("GATEWAY_LADDER_S", "1,-1"),
        ("GATEWAY_LADDER_S", "nan"),
        ("GATEWAY_LADDER_S", ",".join(["1"] * 41)),
        ("GATEWAY_REMIND_S", "0"),
        ("GATEWAY_WATCH_S", "never"),
        ("GATEWAY_FIND_AFTER_S", "72001"),
        ("GATEWAY_CAPTURE_LOOKS_S", ","),
        ("GATEWAY_REFUND_LOOKS_S", "0"),
        ("CARD_KEYS_FILE", "/nowhere/keys.json"),
        ("GATEWAY_WEBHOOK_PORT", "http"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{variable}.*\\.$"):
        read(**{variable: value})


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'])
def test_a_wrong_key_file_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = _key_file(tmp_path, content)
    with pytest.raises(ConfigurationError, match=r"^CARD_KEYS_FILE") as refused:
        read(CARD_KEYS_FILE=str(file))
    assert "c2VjcmV0" not in str(refused.value)


def test_a_key_file_opens_cards(tmp_path: Path) -> None:
    file = _key_file(tmp_path, orjson.dumps(card_keys()[1]))
    link = tmp_path / "link"
    link.symlink_to(file)  # as Kubernetes mounts a secret
    assert read(CARD_KEYS_FILE=str(file)).keyring is not None
    assert read(CARD_KEYS_FILE=str(link)).keyring is not None


@pytest.mark.parametrize("mode", [0o640, 0o660, 0o604, 0o602, 0o610, 0o644, 0o777])
def test_keys_that_others_can_read_are_refused_with_the_way_out(tmp_path: Path, mode: int) -> None:
    file = _key_file(tmp_path, orjson.dumps(card_keys()[1]), mode=mode)
    link = tmp_path / "link"
    link.symlink_to(file)
    for path in (file, link):
        with pytest.raises(ConfigurationError, match=f"^CARD_KEYS_FILE .*mode {mode:04o}.*`chmod 0600 {path}`"):
            read(CARD_KEYS_FILE=str(path))


@pytest.mark.parametrize(
    ("mode", "group", "is_refused"),
    [
        (0o440, "ours", False),
        (0o400, "ours", False),
        (0o440, "another", True),
        (0o460, "ours", True),
        (0o444, "ours", True),
    ],
)
def test_a_secret_of_kubernetes_is_read_through_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, group: str, *, is_refused: bool
) -> None:
    file = _key_file(tmp_path, orjson.dumps(card_keys()[1]), mode=mode)
    of_file = file.stat()
    monkeypatch.setattr(os, "geteuid", lambda: of_file.st_uid + 1)
    monkeypatch.setattr(os, "getegid", lambda: of_file.st_gid + 1)
    monkeypatch.setattr(os, "getgroups", lambda: [of_file.st_gid] if group == "ours" else [])
    if is_refused:
        with pytest.raises(ConfigurationError, match=f"chmod 0{'44' if group == 'ours' else '60'}0"):
            read(CARD_KEYS_FILE=str(file))
    else:
        assert read(CARD_KEYS_FILE=str(file)).keyring is not None


def test_a_key_file_with_a_member_twice_is_refused(tmp_path: Path) -> None:
    file = _key_file(tmp_path, orjson.dumps(card_keys()[1])[:-1] + b', "keys": []}')
    with pytest.raises(ConfigurationError, match=r"^CARD_KEYS_FILE is not JSON"):
        read(CARD_KEYS_FILE=str(file))


@pytest.mark.parametrize(
    "variables",
    [
        {"GATEWAY_URL": "ftp://somewhere"},
        {"GATEWAY_URL": "https://api.example.test"},
        {"GATEWAY_URL": "http://api.example.test", "GATEWAY_API_KEY": "sk_live_1234"},
        {"GATEWAY_URL": "memory://?latency_ms=no"},
        {"GATEWAY_URL": "memory://", "GATEWAY_MODE": "live"},
        {"GATEWAY_URL": "memory://", "GATEWAY_MODE": ""},
        {"GATEWAY_URL": "https://api.example.test/v1", "GATEWAY_API_KEY": "sk_test_1234", "GATEWAY_MODE": "test"},
        {"GATEWAY_URL": "https://api.example.test", "GATEWAY_API_KEY": "pk_test_1234", "GATEWAY_MODE": "test"},
        {"GATEWAY_URL": "https://api.example.test", "GATEWAY_API_KEY": "sk_live_1234", "GATEWAY_MODE": "test"},
        {"GATEWAY_URL": "https://api.example.test", "GATEWAY_API_KEY": "sk_test_1234", "GATEWAY_MODE": "live"},
        {
            "GATEWAY_URL": "https://api.example.test",
            "GATEWAY_API_KEY": "sk_test_1234",
            "GATEWAY_MODE": "test",
            "GATEWAY_CA_FILE": "/nowhere/ca.pem",
        },
    ],
)
async def test_a_gateway_that_cannot_be_opened_is_a_sentence(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"^GATEWAY_URL") as refused:
        read(**variables).open_gateway()
    assert "1234" not in str(refused.value)
