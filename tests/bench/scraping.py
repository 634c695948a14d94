"""Who looks at services under load: a collector of traces, and a Prometheus."""

import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

SCRAPE_EVERY_S: Final = 15.0
"""As in deploy/prometheus/prometheus.yml. The first scrape is at once, so that each burst has one."""
SCRAPE_TIMEOUT_S: Final = 10.0


class _Discard(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is that of the base
        """Nobody reads it."""


@contextmanager
def discarding_collector() -> Iterator[str]:
    """A collector of OpenTelemetry that throws away what it is sent; yields its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Discard) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="collector", daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def scraping(ports: Sequence[int]) -> Iterator[None]:
    """Ask these ports for metrics, as Prometheus does, until the block ends."""
    ended = threading.Event()

    def scrape() -> None:
        while True:
            for port in ports:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SCRAPE_TIMEOUT_S) as answer:
                    answer.read()
            if ended.wait(SCRAPE_EVERY_S):
                return

    scraper = threading.Thread(target=scrape, name="scraper", daemon=True)
    if ports:
        scraper.start()
    try:
        yield
    finally:
        ended.set()
        if ports:
            scraper.join()
