"""The manifests of `deploy/kubernetes` as `kubectl kustomize` renders them."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.support.programs import program

FOLDER: Final = Path(__file__).parents[2] / "deploy/kubernetes"
SCHEMAS: Final = Path(__file__).parent / "schemas"
BASES: Final = ("platform", "setup", "services", "operator")
EXAMPLE: Final = tuple(f"example/{name}" for name in BASES)
RENDERED: Final = (*BASES, *EXAMPLE, "example/after-upgrade")

_KUSTOMIZE_LEAST: Final = 5
"""The version from which on `labels` can be put into templates. Debian 13 has it (kubernetes-client), Debian 12 has not."""
_DEADLINE_S: Final = 60

Resource = Mapping[str, Any]


@cache
def kubectl() -> str:
    """The program that renders. It is installed where we may; where there is none, or one that is too old, the test is skipped."""
    found = program("kubectl", "kubernetes-client")
    version = json.loads(_run(found, "version", "--client", "--output=json")).get("kustomizeVersion", "v0")
    if int(version.removeprefix("v").partition(".")[0]) < _KUSTOMIZE_LEAST:
        pytest.skip(f"kubectl renders with Kustomize {version}: it needs {_KUSTOMIZE_LEAST} or newer")
    return found


@cache
def render(folder: str) -> tuple[Resource, ...]:
    """The resources of one folder of `deploy/kubernetes`."""
    found = tuple(yaml.safe_load_all(_run(kubectl(), "kustomize", str(FOLDER / folder))))
    assert found, f"{folder} renders nothing"
    return found


def of_kind(kind: str, *folders: str) -> dict[str, Resource]:
    """The resources of a kind, by name."""
    found = [one for folder in folders for one in render(folder) if one["kind"] == kind]
    named = {one["metadata"]["name"]: one for one in found}
    assert len(named) == len(found), f"two of kind {kind} have one name"
    return named


def pods(*folders: str) -> Iterator[tuple[str, Resource]]:
    """Every pod, or template of one, with the name of what owns it."""
    for kind in ("Deployment", "CronJob", "Job", "Pod"):
        for name, one in of_kind(kind, *folders).items():
            spec = one["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else one["spec"]
            yield name, spec.get("template", one)


def containers(pod: Resource) -> Sequence[Resource]:
    """All containers of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]


def configured(container: Resource, maps: Mapping[str, Resource], secret: Callable[[str, str], str]) -> dict[str, str]:
    """The environment of a container, as Kubernetes makes it. `secret` gives the value of a key of a secret."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]["data"]
    for variable in container.get("env", ()):
        if "valueFrom" in variable:
            reference = variable["valueFrom"]["secretKeyRef"]
            value = secret(reference["name"], reference["key"])
        else:
            value = variable["value"]
            for name, other in found.items():
                value = value.replace(f"$({name})", other)
        found[variable["name"]] = value
    return found


@cache
def schemas() -> Mapping[str, Any]:
    """The schema of each kind, with all parts of its file."""
    found: dict[str, Any] = {}
    for path in sorted(SCHEMAS.glob("*.json")):
        parts = json.loads(path.read_text(encoding="utf-8"))["$defs"]
        kinds = [name for name, part in parts.items() if "const" in part.get("properties", {}).get("kind", {})]
        found |= {kind: {"$ref": f"#/$defs/{kind}", "$defs": parts} for kind in kinds}
    return found


def mistakes(resource: Resource) -> list[str]:
    """What the schema of its kind has against a resource, one sentence each."""
    if resource["kind"] not in schemas():
        return [f"no schema for {resource['kind']}: add it to tests/kubernetes/make_schemas.py"]
    errors = _validator(resource["kind"]).iter_errors(resource)
    name = f"{resource['kind']} {resource['metadata'].get('name')}"
    return [f"{name}: {error.json_path}: {error.message}" for error in errors]


@cache
def _validator(kind: str) -> Draft202012Validator:
    return Draft202012Validator(schemas()[kind])


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # it warns of fields that the next version drops
    return done.stdout
