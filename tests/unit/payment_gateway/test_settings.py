"""A wrong setting gives one sentence that names the variable and shows no secret."""

from pathlib import Path

import orjson
import pytest

from services.payment_gateway.domain import Policy
from services.payment_gateway.settings import LADDER_S, REMIND_S, ChargingSettings
from shared.card_data.encryption import generate_keyset
from shared.settings import ConfigurationError, EnvironmentVariables

MEMORY = {"GATEWAY_URL": "memory://?latency_ms=5"}


def read(**variables: str) -> ChargingSettings:
    return ChargingSettings.read(EnvironmentVariables(MEMORY | variables))


def test_a_variable_that_is_not_set_has_a_default() -> None:
    settings = read()
    assert settings == ChargingSettings(MEMORY["GATEWAY_URL"], "", 10.0, 200, Policy(LADDER_S, REMIND_S), None)


def test_the_ladder_can_be_short() -> None:
    assert read(GATEWAY_LADDER_S="0.5, 1,2").policy.ladder_s == (0.5, 1.0, 2.0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_URL", ""),
        ("GATEWAY_TIMEOUT_S", "soon"),
        ("GATEWAY_TIMEOUT_S", "0"),
        ("GATEWAY_LEASE_MARGIN_S", "0"),
        ("GATEWAY_CALLS_IN_FLIGHT", "0"),
        ("GATEWAY_LADDER_S", "1,x"),
        ("GATEWAY_LADDER_S", "1,-1"),
        ("GATEWAY_LADDER_S", "nan"),
        ("GATEWAY_LADDER_S", ",".join(["1"] * 41)),
        ("GATEWAY_REMIND_S", "0"),
        ("CARD_KEYS_FILE", "/nowhere/keys.json"),
    ],
)
def test_a_mistake_is_a_sentence_that_names_the_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{variable}.*\\.$"):
        read(**{variable: value})


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'])
def test_a_wrong_key_file_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^CARD_KEYS_FILE") as refused:
        read(CARD_KEYS_FILE=str(file))
    assert "c2VjcmV0" not in str(refused.value)


def test_a_key_file_opens_cards(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(orjson.dumps(generate_keyset()[1]))
    assert read(CARD_KEYS_FILE=str(file)).keyring is not None


@pytest.mark.parametrize(
    "variables",
    [
        {"GATEWAY_URL": "ftp://somewhere"},
        {"GATEWAY_URL": "https://api.example.test"},
        {"GATEWAY_URL": "http://api.example.test", "GATEWAY_API_KEY": "sk_live_1234"},
        {"GATEWAY_URL": "memory://?latency_ms=no"},
    ],
)
async def test_a_gateway_that_cannot_be_opened_is_a_sentence(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"^GATEWAY_URL") as refused:
        read(**variables).open_gateway()
    assert "1234" not in str(refused.value)
