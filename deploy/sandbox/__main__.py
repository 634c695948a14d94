"""`python -m deploy.sandbox --ledger FILE`: the sandbox gateway as a process. SIGTERM and SIGINT stop it cleanly."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from deploy.sandbox.app import KEY_AGE_S, SLOW_S, SandboxSettings
from deploy.sandbox.server import Sandbox


def main() -> None:
    """Writes `PORT ADMIN_PORT` to --port-file once it listens."""
    args = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    uvloop.run(_serve(args))


async def _serve(args: argparse.Namespace) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if args.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), _watch_stdin, stop)
    settings = SandboxSettings(key_age_s=args.key_age_s, slow_s=args.slow_ms / 1000, requests_per_s=args.requests_per_s)
    sandbox = Sandbox(args.ledger, host=args.host, port=args.port, admin_port=args.admin_port, settings=settings)
    async with sandbox:
        if args.port_file:
            _write_whole(args.port_file, f"{sandbox.url.rpartition(':')[2]} {sandbox.admin_url.rpartition(':')[2]}\n")
        await stop.wait()


def _watch_stdin(stop: asyncio.Event) -> None:
    """Stop at the end of file on stdin: the process that started this one has ended, in whatever way."""
    if not os.read(sys.stdin.fileno(), 1024):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _write_whole(path: Path, text: str) -> None:
    """Write the file so that it appears complete: readers poll for it and must never see half of it."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text)
    draft.replace(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.sandbox", description=__doc__)
    parser.add_argument("--ledger", type=Path, required=True, help="SQLite file; created if missing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--admin-port", type=int, default=0, help="for people; stays in mode refuse. 0: a free one")
    parser.add_argument("--port-file", type=Path, help='where to write "PORT ADMIN_PORT" once it listens')
    parser.add_argument("--key-age-s", type=float, default=KEY_AGE_S, help="when idempotency keys expire")
    parser.add_argument("--slow-ms", type=float, default=SLOW_S * 1000, help="how late pm_remit_slow acts")
    parser.add_argument("--requests-per-s", type=float, help="limit of each endpoint, beyond which it answers 429")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when the parent process is gone")
    return parser.parse_args()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
