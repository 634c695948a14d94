"""What the desk believes of a provider of single sign-on: tokens that the provider signed, for this desk and this sign-in."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey

from services.staff.desk.desk import Desk
from services.staff.desk.single_sign_on import Provider, ProviderError
from shared.http_server import serve

PROVIDER = "https://login.example.com"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY, OTHER_KEY = (ECKey.generate_key("P-256", {"kid": kid}) for kid in ("one", "other"))
CLAIMS: Mapping[str, Any] = {
    "iss": PROVIDER,
    "aud": "remit-desk",
    "sub": "1",
    "nonce": "n-1",
    "iat": int(NOW.timestamp()),
    "exp": int((NOW + timedelta(minutes=5)).timestamp()),
}


class Answering(Provider):
    """A provider that answers at once: with these keys, the first time with those before them."""

    def __init__(self, token: str, *key_sets: ECKey) -> None:
        settings = SimpleNamespace(
            url="https://desk.example.com",
            provider=PROVIDER,
            client_id="remit-desk",
            client_secret="s",
            scopes="openid",
        )
        super().__init__(cast(Desk, SimpleNamespace(settings=settings, clock=lambda: NOW)))
        self._token = token
        self._key_sets = list(key_sets)

    async def _json(
        self, method: str, url: str, *, data: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        del method, data, headers
        match url.removeprefix(PROVIDER):
            case "/token":
                return {"id_token": self._token}
            case "/keys":
                key = self._key_sets.pop(0) if len(self._key_sets) > 1 else self._key_sets[0]
                return {"keys": [key.as_dict(private=False)]}
            case _:
                addresses = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
                return {"issuer": PROVIDER} | {name: f"{PROVIDER}{path}" for name, path in addresses.items()}


def signed(key: ECKey = KEY, **other: Any) -> str:
    return jwt.encode({"alg": "ES256", "kid": key.kid}, {**CLAIMS, **other}, key)


async def test_a_token_for_this_sign_in_is_believed() -> None:
    assert (await Answering(signed(), KEY).claims("code", "n-1", "v"))["sub"] == "1"


@pytest.mark.parametrize(
    "token",
    [
        signed(aud="another-client"),
        signed(aud="another-client", azp="remit-desk"),
        signed(iss="https://elsewhere.example.com"),
        signed(nonce="n-2"),
        signed(exp=int((NOW - timedelta(minutes=5)).timestamp())),
        signed(OTHER_KEY),
        "no token",
    ],
    ids=[
        "another client",
        "another client by us",
        "another provider",
        "another sign-in",
        "an ended token",
        "an unknown key",
        "no token",
    ],
)
async def test_no_other_token_is_believed(token: str) -> None:
    with pytest.raises(ProviderError):
        await Answering(token, KEY).claims("code", "n-1", "v")


async def test_keys_that_were_exchanged_are_read_anew() -> None:
    provider = Answering(signed(OTHER_KEY), KEY, OTHER_KEY)
    assert (await provider.claims("code", "n-1", "v"))["sub"] == "1"


async def test_a_provider_is_not_followed_elsewhere() -> None:
    """What proves who we are is for the address that was checked."""

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async def leaks(_: web.Request) -> web.Response:
        return web.json_response({"id_token": "x"})

    app = web.Application()
    app.router.add_post("/token", elsewhere)
    app.router.add_post("/elsewhere", leaks)
    server = await serve(app, "127.0.0.1", 0)
    desk = SimpleNamespace(settings=SimpleNamespace(), clock=lambda: NOW)
    try:
        with pytest.raises(ProviderError, match="answered 307"):
            await Provider(cast(Desk, desk))._json("POST", f"http://127.0.0.1:{server.addresses[0][1]}/token")
    finally:
        await server.close()
