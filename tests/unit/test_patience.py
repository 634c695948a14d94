"""A mistake at the start ends a service only once it has stood for a while: a broker that starts may not know its users yet."""

import socket
import ssl
from pathlib import Path

import pytest

from shared.service import Patience
from shared.settings import ConfigurationError
from shared.unreachable import why_unreachable


class Now:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.s)


def test_a_mistake_has_to_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    now, patience = Now(monkeypatch), Patience(5.0)
    patience.failed("wrong")
    now.s += 4.9
    patience.failed("wrong")
    now.s += 0.1
    with pytest.raises(ConfigurationError, match=r"^wrong$"):
        patience.failed("wrong")


def test_an_outage_in_between_begins_the_time_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now, patience = Now(monkeypatch), Patience(5.0)
    patience.failed("wrong")
    now.s += 4.9
    patience.failed(None)
    now.s += 4.9
    patience.failed("wrong")
    now.s += 4.9
    patience.failed("wrong")


def test_an_outage_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, patience = Now(monkeypatch), Patience(0.0)
    for _ in range(3):
        patience.failed(None)
        now.s += 1_000


def caused(error: BaseException) -> BaseException:
    """As the broker's client wraps it."""
    outer = ConnectionError("wrapped")
    outer.__cause__ = error
    return outer


def test_an_unknown_host_is_told_and_a_name_server_that_is_away_is_not() -> None:
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert why_unreachable(caused(unknown)) == "there is no host of this name"
    assert why_unreachable(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")) is None


def test_a_cut_connection_is_an_outage_though_tls_notices_it() -> None:
    assert why_unreachable(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")) is None
    assert why_unreachable(caused(ConnectionResetError())) is None
    assert why_unreachable(TimeoutError()) is None


def test_a_certificate_that_became_unreadable_is_told(tmp_path: Path) -> None:
    """OpenSSL names no reason for it, so it is known by its words."""
    (tmp_path / "client.pem").write_text("no PEM")
    with pytest.raises(ssl.SSLError) as told:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tmp_path / "client.pem")
    assert why_unreachable(caused(told.value)) == "our certificate or its key cannot be read: both have to be in PEM"
