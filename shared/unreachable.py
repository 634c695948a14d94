"""Tells why no connection can be made until somebody changes something: an unknown host, or TLS that cannot be agreed on.

An outage may go away by itself; this does not. An unknown host is on the border: in a cluster a name may come a little later. So it ends a
service only at its start, and only if it stands for a while (`shared.service`).
"""

import socket
import ssl
from collections.abc import Iterator

_UNKNOWN_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
"""Not EAI_AGAIN: then the name server is away."""
_OUR_CERTIFICATE_REFUSED = (
    "the server does not take our certificate, or wants one: the URL must name one, and its key, "
    "of an authority that the server trusts"
)
_TLS = {
    "WRONG_VERSION_NUMBER": "the URL demands TLS and the server speaks none on this port",
    "HTTP_REQUEST": "the URL demands TLS and the server speaks none on this port",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _OUR_CERTIFICATE_REFUSED,
    "TLSV1_ALERT_UNKNOWN_CA": _OUR_CERTIFICATE_REFUSED,
    "SSLV3_ALERT_BAD_CERTIFICATE": _OUR_CERTIFICATE_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _OUR_CERTIFICATE_REFUSED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _OUR_CERTIFICATE_REFUSED,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _OUR_CERTIFICATE_REFUSED,
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server and we have no version of TLS in common",
    "NO_CERTIFICATE_OR_CRL_FOUND": "the file with the authority's certificate holds none",
    "KEY_VALUES_MISMATCH": "our certificate and its key do not belong together",
}
"""What OpenSSL's reasons mean. Any other may be an outage, for instance a connection that was cut."""
_CHAIN_MAX = 10


def why_unreachable(error: BaseException, *, is_only_host: bool = True) -> str | None:
    """Why the connection failed, as a text without a full stop; None if it may go away by itself.

    `is_only_host`: the URL names one host. Of several, one that is unknown for now does not keep us from the others.
    """
    for link in _chain(error):
        match link:
            case ssl.SSLCertVerificationError():
                return f"the server's certificate is refused ({link.verify_message.rstrip('.')})"
            case ssl.SSLError() if (reason := getattr(link, "reason", None)) in _TLS:  # some have none
                return _TLS[reason]
            case ssl.SSLError() if "PEM lib" in str(link):  # OpenSSL names no reason
                return "our certificate or its key cannot be read: both have to be in PEM"
            case socket.gaierror() if is_only_host and link.errno in _UNKNOWN_HOST:
                return "there is no host of this name"
            case ConnectionError() if "rejected SSL upgrade" in str(link):  # asyncpg says so in words only
                return "the URL demands TLS and the server speaks none"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(_CHAIN_MAX):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__
