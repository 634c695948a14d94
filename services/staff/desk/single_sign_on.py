"""Signing in with OpenID Connect: the code flow with PKCE, state and nonce. Roles come from a claim, at each sign-in.

It begins with a link: the policy of our pages lets no form lead to another site. What begins here is noted in the database, so that any
process of the desk takes the answer; it fits one browser only, and only once.
"""

import asyncio
import base64
import json
import secrets
import ssl
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus, urlsplit

import aiohttp
import structlog
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from services.staff.actions import accounts
from services.staff.actions.results import ActionResult
from services.staff.desk import security, sessions
from services.staff.desk.acted import sentence
from services.staff.desk.desk import Desk
from services.staff.desk.problems import Refused
from services.staff.desk.settings import LOOPBACK
from services.staff.desk.sign_in import VISIT, SignIn, enter
from services.staff.people import Actor, Role, Via
from services.staff.people_store import BegunSignIn
from shared.tokens import hash_of

log = structlog.get_logger(__name__)

BACK = "/sign-in/back"
LASTS = timedelta(minutes=10)
"""How long somebody may take at the provider."""
TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 1024 * 1024
KEPT_S = 3600.0
"""How long the provider's addresses and keys are used before they are read again. A key that is not known has them read at once."""
LEEWAY_S = 60
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
"""Signatures by a key that the provider alone has. `none`, and those by a shared secret, are not among them."""
_BASIC = "client_secret_basic"
_AWAY = (aiohttp.ClientError, TimeoutError, OSError)


class ProviderError(Exception):
    """The provider says what it must not, or what does not fit. The text is for the log: it may be anybody's."""


class Provider:
    """The provider: its addresses and keys, and what it makes of a code."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._settings = desk, desk.settings
        self._metadata: Mapping[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    @property
    def back(self) -> str:
        """The address to which the provider sends browsers back."""
        return f"{self._settings.url}{BACK}"

    async def address(self, state: str, nonce: str, verifier: str) -> str:
        """Where a browser goes to sign in. Raises ProviderError or an error of the network."""
        metadata = await self._current()
        return str(
            prepare_grant_uri(
                metadata["authorization_endpoint"],
                client_id=self._settings.client_id,
                response_type="code",
                redirect_uri=self.back,
                scope=self._settings.scopes,
                state=state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
            )
        )

    async def claims(self, code: str, nonce: str, verifier: str) -> Mapping[str, Any]:
        """What the provider says of whoever brought this code. Raises ProviderError or an error of the network."""
        metadata = await self._current()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.back,
            "code_verifier": verifier,
            "client_id": self._settings.client_id,
        }
        headers = self._prove_who_asks(form, metadata.get("token_endpoint_auth_methods_supported") or [_BASIC])
        answer = await self._json("POST", metadata["token_endpoint"], data=form, headers=headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise ProviderError(f"no ID token, but {sorted(answer)}")
        return await self._read_token(token, nonce)

    def _prove_who_asks(self, form: dict[str, str], methods: Sequence[str]) -> Mapping[str, str]:
        """The headers that prove who we are (RFC 6749, 2.3.1), or else a field of the form does. Without a secret, PKCE alone does."""
        secret = self._settings.client_secret
        if secret and _BASIC in methods:
            pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(secret)}"
            return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        if secret:
            form["client_secret"] = secret
        return {}

    async def _read_token(self, token: str, nonce: str) -> Mapping[str, Any]:
        try:
            read = jwt.decode(token, await self._key_set(), algorithms=list(ALGORITHMS))
        except (JoseError, ValueError):  # a key that is newer than ours, mostly
            try:
                read = jwt.decode(token, await self._key_set(again=True), algorithms=list(ALGORITHMS))
            except (JoseError, ValueError) as error:
                raise ProviderError(f"the ID token cannot be read: {type(error).__name__}") from None
        options: dict[str, Any] = {
            "iss": {"essential": True, "value": self._metadata["issuer"]},
            "aud": {"essential": True, "value": self._settings.client_id},
        }
        params = {"nonce": nonce, "client_id": self._settings.client_id}
        claims = CodeIDToken(read.claims, read.header, options, params)
        try:
            claims.validate(now=int(self._desk.clock().timestamp()), leeway=LEEWAY_S)
        except JoseError as error:
            raise ProviderError(f"the ID token does not fit: {error}") from None
        return dict(claims)

    async def _current(self) -> Mapping[str, Any]:
        loop = asyncio.get_running_loop()
        async with self._reading:
            if not self._metadata or loop.time() - self._read_at > KEPT_S:
                read = await self._json("GET", get_well_known_url(self._settings.provider, external=True))
                if read.get("issuer") != self._settings.provider:
                    raise ProviderError("it calls itself by another address than DESK_OIDC_ISSUER")
                for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                    _check_address(name, read.get(name))
                self._metadata, self._keys, self._read_at = read, None, loop.time()
            return self._metadata

    async def _key_set(self, *, again: bool = False) -> KeySet:
        metadata = await self._current()
        if self._keys is None or again:
            try:
                self._keys = KeySet.import_key_set(await self._json("GET", metadata["jwks_uri"]))  # type: ignore[arg-type]
            except (JoseError, ValueError, KeyError, TypeError) as error:
                raise ProviderError(f"its keys cannot be read: {type(error).__name__}") from None
        return self._keys

    async def _json(
        self, method: str, url: str, *, data: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            session.request(
                method, url, data=data, allow_redirects=False, headers={"accept": "application/json", **(headers or {})}
            ) as answer,
        ):
            content = b""
            while len(content) <= ANSWER_BYTES_MAX and (more := await answer.content.readany()):
                content += more
            if answer.status != HTTPStatus.OK or len(content) > ANSWER_BYTES_MAX:
                raise ProviderError(f"{urlsplit(url).path} answered {answer.status} with {len(content)} bytes")
        try:
            read = json.loads(content)
        except ValueError:
            raise ProviderError(f"{urlsplit(url).path} answered what is no JSON") from None
        if not isinstance(read, dict):
            raise ProviderError(f"{urlsplit(url).path} answered what is no object")
        return read


def _check_address(name: str, address: object) -> None:
    parts = urlsplit(address) if isinstance(address, str) else None
    if parts is None or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
        raise ProviderError(f"its {name} is no address by https")


def roles_in(claims: Mapping[str, Any], path: str) -> frozenset[Role]:
    """The roles that a claim gives: a list, or words of a text. `path` may lead into objects, such as `realm_access.roles`."""
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    words = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return frozenset(role for role in Role if role.value in words)


class SingleSignOn:
    """The way to the provider and back."""

    def __init__(self, desk: Desk, sign_in: SignIn) -> None:
        self._desk, self._sign_in = desk, sign_in
        self._provider = Provider(desk)

    def routes(self) -> list[Route]:
        return [Route("/sign-in/with", self.begin, methods=["GET"]), Route(BACK, self.back, methods=["GET"])]

    async def begin(self, request: Request) -> Response:
        """Note that a sign-in begins, and send the browser to the provider."""
        page = security.own_page(request.query_params.get("page", "/"))
        self._sign_in.guesses.check_network(request)
        visit = sessions.cookie_of(request, self._desk.settings, VISIT)
        if visit is None:
            visit = request.scope["new_visit"] = sessions.new_secret()
        state, nonce, verifier = sessions.new_secret(), sessions.new_secret(), secrets.token_urlsafe(48)
        try:
            address = await self._provider.address(state, nonce, verifier)
        except (ProviderError, *_AWAY) as error:
            return await self._sign_in.show(request, page, _away(error))
        begun = BegunSignIn(self._desk.clock(), nonce, verifier, page)
        await accounts.begin_sign_in(self._desk.database, hash_of(f"{state} {visit}"), begun)
        return RedirectResponse(address, HTTPStatus.SEE_OTHER)

    async def back(self, request: Request) -> Response:
        """Take the provider's answer, and sign in whom it names."""
        begun = await self._begun(request)
        if begun is None or self._desk.clock() - begun.begun_at > LASTS:
            sentence = "This sign-in was begun elsewhere, or too long ago: begin again."
            return await self._sign_in.show(request, "/", Refused("other_site", sentence, HTTPStatus.FORBIDDEN))
        code = request.query_params.get("code")
        if not code:
            log.warning("single_sign_on_refused", error=request.query_params.get("error", "")[:100])
            sentence = f"{self._desk.settings.provider_name} did not let you in."
            return await self._sign_in.show(request, begun.page, Refused("signed_out", sentence, HTTPStatus.FORBIDDEN))
        try:
            claims = await self._provider.claims(code, begun.nonce, begun.verifier)
        except (ProviderError, *_AWAY) as error:
            return await self._sign_in.show(request, begun.page, _away(error))
        return await self._enter(request, claims, begun.page)

    async def _begun(self, request: Request) -> BegunSignIn | None:
        state = request.query_params.get("state", "")
        visit = sessions.cookie_of(request, self._desk.settings, VISIT)
        if not state or visit is None:
            return None
        return await accounts.take_sign_in(self._desk.database, hash_of(f"{state} {visit}"))

    async def _enter(self, request: Request, claims: Mapping[str, Any], page: str) -> Response:
        settings, now = self._desk.settings, self._desk.clock()
        name = claims.get(settings.name_claim)
        if not isinstance(name, str) or not name:
            log.warning("single_sign_on_refused", error=f"no claim {settings.name_claim}", claims=sorted(claims))
            told = "It does not say your name. Whoever runs Remit has to set DESK_OIDC_NAME_CLAIM right."
            return await self._sign_in.show(request, page, Refused("signed_out", told, HTTPStatus.FORBIDDEN))
        login, roles = f"{settings.provider} {claims['sub']}", roles_in(claims, settings.roles_claim)
        who = Actor(name, Via.DESK, roles)
        person = await accounts.person_from_provider(self._desk.database, login, name, roles, who=who, now=now)
        if isinstance(person, ActionResult):
            refused = Refused("name_taken", sentence(person.text, name), HTTPStatus.FORBIDDEN)
            return await self._sign_in.show(request, page, refused)
        if not person.active:
            who = Actor(person.name, Via.DESK)
            await accounts.refuse_sign_in(self._desk.database, person, "inactive", who=who, now=now)
            told = "An admin has shut this account out."
            return await self._sign_in.show(request, page, Refused("signed_out", told, HTTPStatus.FORBIDDEN))
        return await enter(self._desk, request, person, page, how="single sign-on")


def _away(error: Exception) -> Refused:
    log.warning("single_sign_on_failed", error=type(error).__name__, detail=str(error)[:300])
    sentence = "Single sign-on does not answer as it should. Try again, or sign in with an account of this desk."
    return Refused("signed_out", sentence, HTTPStatus.SERVICE_UNAVAILABLE)
