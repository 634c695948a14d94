"""The whole look of the doctor: everything that was named, one after the other."""

import asyncio
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from deploy.doctor.broker import look_at_broker
from deploy.doctor.certificates import look_at_certificates
from deploy.doctor.databases import look_at_database
from deploy.doctor.diagnosis import Diagnosis, broken, look, unseen, well
from deploy.doctor.gateway import fly_canary, look_at_gateway
from deploy.doctor.node import look_at_node, runner
from deploy.doctor.web import DESK, DOOR, look_at_web
from deploy.permissions.databases import SERVICES
from shared.build import this_build
from shared.clock import Clock
from shared.settings import database_variable

PYTHON_LEAST: Final = (3, 11)
PYTHON_TESTED_MOST: Final = (3, 13)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was named: databases by their service, the broker, how to run `rabbitmqctl`. `canary`: a payment may be made."""

    databases: Mapping[str, str] = field(repr=False)
    rabbitmq_url: str | None = field(repr=False)
    rabbitmqctl: str | None = None
    canary: bool = False


async def examine(around: Surroundings, clock: Clock) -> list[Diagnosis]:
    """Look at everything. What was not named is said to be not seen."""
    found = [judge_python(sys.version_info[:2])]
    for service in SERVICES:
        if service in around.databases:
            found += await look_at_database(service, around.databases[service], clock)
        else:
            found.append(_unnamed(f"{service} database", database_variable(service)))
    if around.rabbitmq_url is None:
        found.append(_unnamed("broker", "RABBITMQ_URL"))
    else:
        found += await look_at_broker(around.rabbitmq_url)
    ctl = None if around.rabbitmqctl is None else runner(around.rabbitmqctl)
    found += await asyncio.to_thread(look_at_node, ctl, _vhost(around.rabbitmq_url), SERVICES, clock)
    found.append(await look_at_gateway() if os.environ.get("GATEWAY_URL") else _unnamed("gateway", "GATEWAY_URL"))
    desk_url = os.environ.get("REMIT_DESK_URL") or os.environ.get("DESK_URL")
    door_url = os.environ.get("REMIT_DOOR_URL")
    for one, at, variable in ((DESK, desk_url, "REMIT_DESK_URL"), (DOOR, door_url, "REMIT_DOOR_URL")):
        found.append(await look_at_web(one, at.rstrip("/")) if at else _unnamed(one.what, variable))
    for variable, url in _urls(around):
        found += await look_at_certificates(variable, url, clock())
    found.append(await _canary(around))
    return found


def judge_python(version: tuple[int, ...]) -> Diagnosis:
    """Whether this Python is one that Remit runs on."""
    build, text = this_build(), ".".join(map(str, version))
    if version < PYTHON_LEAST:
        return broken("build", f"Python {text} is older than 3.11.", "install Python 3.11 or newer")
    says = f"Remit {build.version}, revision {build.revision}, on Python {text}."
    return (
        well("build", says)
        if version <= PYTHON_TESTED_MOST
        else look("build", says, "no newer Python than 3.13 was tried")
    )


async def _canary(around: Surroundings) -> Diagnosis:
    if not around.canary:
        return unseen("canary", "No payment was tried.", "--canary pays an invoice of its own, by a test card")
    if around.rabbitmq_url is None or "invoice" not in around.databases:
        return unseen("canary", "It needs RABBITMQ_URL and INVOICE_DATABASE_URL.", "set both")
    return await fly_canary(around.rabbitmq_url, around.databases["invoice"])


def _urls(around: Surroundings) -> Iterator[tuple[str, str]]:
    """The variables whose servers may have certificates."""
    named = {database_variable(service): url for service, url in around.databases.items()}
    named |= {"RABBITMQ_URL": around.rabbitmq_url or "", "GATEWAY_URL": os.environ.get("GATEWAY_URL", "")}
    named |= {variable: os.environ.get(variable, "") for variable in ("REMIT_DESK_URL", "REMIT_DOOR_URL")}
    yield from ((variable, url) for variable, url in named.items() if url)


def _vhost(url: str | None) -> str:
    return unquote(urlsplit(url or "").path[1:]) or "/"


def _unnamed(what: str, variable: str) -> Diagnosis:
    return unseen(what, f"{variable} is not set.", f"set {variable}")
