"""The first job of deploy/compose.yaml draws what is missing, keeps the rest, and gives each process its own secrets only."""

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest

from deploy.compose.draw_secrets import draw
from deploy.permissions.broker import NameRefusedError
from deploy.permissions.databases import SERVICES
from tests.support.environment import ROOT

VOLUMES = ("setup", "rabbitmq", "postgres", *SERVICES, "door", "remit")


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    for name in VOLUMES:
        (tmp_path / name).mkdir()
    return tmp_path


def drawn(volumes: Path, *upstream: str) -> dict[str, str]:
    draw(volumes, upstream)
    return {path.relative_to(volumes).as_posix(): path.read_text() for path in volumes.glob("**/*") if path.is_file()}


def passwords_of(files: dict[str, str]) -> dict[str, str]:
    return dict(line.split("=") for line in files["setup/passwords"].splitlines())


def test_what_is_drawn_once_stays(volumes: Path) -> None:
    """But the broker's hashes, which are salted anew."""
    first, second = drawn(volumes, "shop"), drawn(volumes, "shop")
    del first["rabbitmq/definitions.json"], second["rabbitmq/definitions.json"]
    assert first == second
    assert set(drawn(volumes, "shop", "crm")) - set(first) == {"rabbitmq/definitions.json", "remit/crm/RABBITMQ_URL"}


def test_a_job_that_was_ended_early_goes_on(volumes: Path) -> None:
    first = drawn(volumes, "shop")
    for gone in ("payment_gateway/card-keys.json", "staff/RABBITMQ_URL", "postgres/password"):
        (volumes / gone).unlink()
    (volumes / "staff" / "RABBITMQ_URL.draft").write_text("amqp:")
    again = drawn(volumes, "shop")
    assert {name: again[name] for name in ("staff/RABBITMQ_URL", "postgres/password")} == {
        name: first[name] for name in ("staff/RABBITMQ_URL", "postgres/password")
    }
    (public,) = json.loads(again["remit/card-keys.public.json"])["keys"]
    (private,) = json.loads(again["payment_gateway/card-keys.json"])["keys"]
    assert public["n"] == private["n"]
    assert set(again) == set(first)


def test_each_process_sees_its_own_passwords_only(volumes: Path) -> None:
    files = drawn(volumes, "shop")
    passwords = passwords_of(files)
    assert len(set(passwords.values())) == len(passwords)
    seen = {
        volume: {
            name
            for name, password in passwords.items()
            if any(password in text for path, text in files.items() if path.startswith(f"{volume}/"))
        }
        for volume in VOLUMES
    }
    of_services: dict[str, set[str]] = {one: {one} for one in (*SERVICES, "door")}
    of_operator = {"remit", "remit_audit", "remit_purge", "shop", *SERVICES}
    others = {"setup": set(passwords), "rabbitmq": set(), "postgres": {"postgres"}, "remit": of_operator}
    assert seen == of_services | others


def test_nobody_else_may_read_them_but_the_servers(volumes: Path) -> None:
    """The servers run as users of their own, and no other process sees their volumes."""
    files = drawn(volumes)
    readable = {name for name in files if stat.S_IMODE((volumes / name).stat().st_mode) != 0o600}
    assert readable == {"rabbitmq/definitions.json", "postgres/password"}


@pytest.mark.parametrize("name", ["payment", "postgres", "remit_purge", "invoice_owner", "../x", ""])
def test_a_name_with_a_meaning_is_refused_and_nothing_is_drawn(volumes: Path, name: str) -> None:
    """A user and a role of one name have one password."""
    with pytest.raises(NameRefusedError, match="cannot name a sender"):
        draw(volumes, ["shop", name])
    assert [path for path in volumes.glob("**/*") if path.is_file()] == []


@pytest.mark.parametrize("upgrading", [False, True])
def test_only_for_an_upgrade_senders_may_do_what_the_build_before_needs(volumes: Path, upgrading: bool) -> None:
    draw(volumes, ["shop"], upgrading=upgrading)
    granted = json.loads((volumes / "rabbitmq/definitions.json").read_text())["permissions"]
    (shop,) = [one for one in granted if one["user"] == "shop"]
    assert ("invoice[.]commands|" in shop["write"]) == upgrading


def test_what_a_service_installs_is_locked_as_everywhere_else() -> None:
    """Five locks of one truth: `make lock` writes them together."""
    service, door, desk, runtime, dev = (
        pins(f"deploy/requirements/{name}.txt") for name in ("service", "door", "desk", "runtime", "dev")
    )
    assert service < door < desk < dev
    assert runtime < dev
    of_traces = {"opentelemetry-sdk", "protobuf"}
    assert of_traces <= {pin.partition("==")[0] for pin in service - runtime}
    of_desk, of_tools = {"authlib", "fastapi", "uvicorn"}, {"alembic", "rich", "sqlalchemy", "typer"}
    assert of_desk <= {pin.partition("==")[0] for pin in desk - runtime}
    assert of_tools <= {pin.partition("==")[0] for pin in runtime - desk}


def test_what_is_told_of_the_supply_chain_is_told_of_every_image(tmp_path: Path) -> None:
    """`make sbom`, `licences` and `vulnerabilities` read one lock of all images, in which each package stands once."""
    whole = tmp_path / "images.txt"
    subprocess.run(("make", "-s", f"IMAGES_LOCK={whole}", str(whole)), cwd=ROOT, check=True)
    installed = re.findall(
        r"^COPY (deploy/requirements/.+[.]txt) ", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE
    )
    assert len(installed) == 4
    assert pins(str(whole)) == set.union(*map(pins, installed))
    assert len(re.findall(r"^\S", whole.read_text(), re.MULTILINE)) == len(pins(str(whole)))


def test_a_folder_that_was_moved_finds_its_tools() -> None:
    """Programs that pip installs begin with the path of the folder as it was. Only the environment of the tests is made anew."""
    called = re.findall(r"[$][(](?:SUPPLY|PEERS)[)]/bin/([^\s)\]]+)", (ROOT / "Makefile").read_text())
    assert set(called) == {"python"}


def pins(path: str) -> set[str]:
    lines = (ROOT / path).read_text().splitlines()
    return {line.split(" ")[0] for line in lines if "==" in line}
