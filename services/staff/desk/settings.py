"""The settings of the desk."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator

from services.staff.settings import ReplaySettings
from shared.messaging.optional_queues import HeartbeatSettings, JournalSettings
from shared.service import ProcessSettings
from shared.settings import BY_COMMAS, NETWORKS, ConfigurationError, DatabaseUrl, database_url, variable

PORT = 8600
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _origin(url: str) -> str:
    """The address without a path. Raises ValueError, whose text follows the name of the variable."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("must be an address such as https://desk.example.com, without a path")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("must begin with https://: by http:// everybody on the way reads passwords and sessions")
    return f"{parts.scheme}://{parts.netloc}"


def _dashboard(url: str) -> str:
    """The pattern of an address. Raises ValueError, whose text follows the name of the variable."""
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if url and (not is_safe or not parts.hostname or "{id}" not in url):
        raise ValueError(
            "must be an https:// address with {id} in it, such as https://dashboard.example.com/payments/{id}"
        )
    return url


class DeskSettings(ProcessSettings, HeartbeatSettings, JournalSettings, ReplaySettings):
    """The settings of the staff desk."""

    name: str = "desk"
    database_url: DatabaseUrl = database_url("staff")
    host: str = variable(
        "DESK_HOST", "127.0.0.1", must="an address of this machine", about="The address where the desk listens."
    )
    port: int = variable(
        "DESK_PORT", PORT, ge=0, le=65_535, about="The port where the desk listens; 0: any that is free."
    )
    url: Annotated[str, AfterValidator(_origin)] = variable(
        "DESK_URL",
        f"http://127.0.0.1:{PORT}",
        must="an address such as https://desk.example.com, without a path",
        about="The address by which browsers reach the desk. With `http://`, for loopback only, the cookie of a session goes without "
        "`Secure` and `__Host-`.",
    )
    environment: str = variable(
        "DESK_ENVIRONMENT",
        "",
        must="a word such as production",
        unset="none",
        about="What the badge beside the name of the desk says.",
        max_length=20,
    )
    contacts_file: str = variable(
        "STAFF_CONTACTS_FILE",
        "",
        must="a path",
        unset="nobody is named",
        about="A JSON file that says whom to call ([its form](../services/staff/README.md#whom-to-call)). It is read anew for each page.",
    )
    pending_after_s: float = variable(
        "STAFF_PENDING_AFTER_S",
        60.0,
        ge=1.0,
        le=86_400.0,
        about="From when on a payment without an outcome is among what is stuck. Twice `INVOICE_REMIND_AFTER_S` or more: it was asked "
        "for again by then.",
    )
    proxies: Annotated[tuple[str, ...], BY_COMMAS, NETWORKS] = variable(
        "DESK_PROXIES",
        (),
        must="addresses or networks, separated by commas",
        unset="none",
        about="Proxies in front of the desk: the address that they name for a browser is believed; tries to sign in are counted by it.",
    )
    provider: str = variable(
        "DESK_OIDC_ISSUER",
        "",
        must="the address of a provider of OpenID Connect",
        unset="none",
        about="The provider of single sign-on, where `/.well-known/openid-configuration` is. Register `DESK_URL` + `/sign-in/back` there.",
    )
    provider_name: str = variable(
        "DESK_OIDC_NAME", "single sign-on", about="What the link to the provider says: Continue with …", max_length=60
    )
    client_id: str = variable(
        "DESK_OIDC_CLIENT_ID", "", must="a text", unset="none", about="The name of the desk at the provider."
    )
    client_secret: str = variable(
        "DESK_OIDC_CLIENT_SECRET",
        "",
        must="a text",
        unset="none: a public client",
        about="The secret of the desk at the provider.",
        secret=True,
    )
    scopes: str = variable(
        "DESK_OIDC_SCOPES", "openid profile email", about="What is asked of the provider, `openid` among it."
    )
    name_claim: str = variable(
        "DESK_OIDC_NAME_CLAIM", "preferred_username", about="The claim with the name under which somebody acts."
    )
    roles_claim: str = variable(
        "DESK_OIDC_ROLES_CLAIM",
        "roles",
        about="The claim with the roles: `viewer`, `replayer`, `resolver`, `admin`; others are passed over.",
    )
    gateway_dashboard_url: Annotated[str, AfterValidator(_dashboard)] = variable(
        "GATEWAY_DASHBOARD_URL",
        "",
        must="an https:// address with {id} in it; http:// for loopback only",
        unset="none: cases have no link to the gateway",
        about="The address of a payment in the gateway's own pages; `{id}` stands for the gateway's id of the payment.",
    )
    local_accounts: Literal["on", "off"] = variable(
        "DESK_ACCOUNTS", "on", about="`off`: nobody signs in with a password of the desk."
    )

    @property
    def is_secure(self) -> bool:
        """Whether browsers come by TLS, so that a cookie may ask for it."""
        return self.url.startswith("https://")

    def check(self) -> None:
        """Raise `ConfigurationError` for settings that do not fit together."""
        if self.provider and not self.client_id:
            raise ConfigurationError("DESK_OIDC_CLIENT_ID is not set: the provider has to know who asks.")
        if not self.provider and self.local_accounts == "off":
            raise ConfigurationError("DESK_ACCOUNTS is off and DESK_OIDC_ISSUER is not set: nobody could sign in.")
        if self.provider and "openid" not in self.scopes.split():
            raise ConfigurationError("DESK_OIDC_SCOPES must have openid among its words.")


SETTINGS = DeskSettings
