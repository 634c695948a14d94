"""The client for senders is a package of its own: its wheel holds all that it needs, and stands on the AMQP client alone."""

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest
import remit_kit
from packaging.requirements import Requirement

from tests.support.environment import ROOT

KIT = ROOT / "shared" / "kit"
OURS = {"deploy", "services", "shared", "tests"}
LOADED = """
import importlib.metadata, json, sys
sys.path.insert(0, {wheel!r})
import remit_kit, remit_kit.fake
names = importlib.metadata.packages_distributions()
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps({{"from": remit_kit.__file__, "loaded": sorted(loaded), "of": {{name: names.get(name, []) for name in loaded}}}}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unpacked wheel, built from a copy: a build writes into the sources."""
    folder = tmp_path_factory.mktemp("kit")
    shutil.copytree(KIT, folder / "source", ignore=shutil.ignore_patterns("__pycache__", "examples"))
    build = (sys.executable, "-m", "uv", "build", "--wheel", "--no-build-isolation", "--offline", "-q", "-o", "wheels")
    subprocess.run((*build, "source"), cwd=folder, check=True, timeout=60)
    (built,) = (folder / "wheels").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    yield folder / "unpacked"
    shutil.rmtree(folder)


def test_the_wheel_has_every_module_and_its_types(wheel: Path) -> None:
    source = {path.name for path in (KIT / "remit_kit").iterdir() if path.is_file()}
    assert {path.name for path in (wheel / "remit_kit").iterdir() if path.is_file()} == source
    assert "py.typed" in source


def test_it_stands_on_the_amqp_client_alone(wheel: Path) -> None:
    run = (sys.executable, "-I", "-c", LOADED.format(wheel=str(wheel)))
    told = json.loads(subprocess.run(run, cwd=wheel, check=True, capture_output=True, timeout=30).stdout)
    assert told["from"] == str(wheel / "remit_kit" / "__init__.py")
    assert not OURS & set(told["loaded"])
    load_themselves = {"setuptools", "coverage"}  # into every process of this environment
    allowed = {"remit-kit", *load_themselves, *closure("aio-pika")}
    of = {name.lower().replace("_", "-") for owners in told["of"].values() for name in owners}
    assert of <= allowed, f"remit_kit loads {of - allowed}, which its pyproject.toml does not name"


def closure(name: str) -> set[str]:
    """A distribution and all that it requires."""
    found, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop().lower().replace("_", "-")
        if one not in found:
            found.add(one)
            wanted = [Requirement(text) for text in requires(one) or ()]
            waiting += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def test_its_requirements_are_those_of_the_repository() -> None:
    own = tomllib.loads((KIT / "pyproject.toml").read_text())["project"]
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*own["dependencies"], *own["optional-dependencies"]["cards"]]
    assert set(wanted) <= set(repository["dependencies"]), "they are tested in these versions"
    assert (own["version"], own["requires-python"]) == (repository["version"], repository["requires-python"])


def test_all_that_is_exported_is_there() -> None:
    assert remit_kit.__all__ == sorted(remit_kit.__all__)
    assert all(hasattr(remit_kit, name) for name in remit_kit.__all__)
