"""What the fake of the kit refuses, as data, since the kit is a package of its own and imports nothing of ours."""

import json
from pathlib import Path
from typing import Any

from services.invoice import domain, refunds
from shared.contracts import schemas
from shared.contracts.base import WHITE_SPACE
from shared.contracts.catalogue import BY_WIRE_NAME, PUBLIC_COMMANDS
from shared.messaging import codec

PATH = Path(schemas.__file__).parents[1] / "kit" / "remit_kit" / "rules.json"
TELLS = frozenset(
    {"$schema", "$id", "title", "description", "examples", "format", "contentEncoding", "contentMediaType", "contentSchema"}
)  # fmt: skip
"""Keywords that refuse nothing: a pattern stands beside each format, and the kit sends no data in base64."""


def text() -> str:
    """The content that the file should have."""
    return json.dumps(_rules(), indent=1) + "\n"


def _rules() -> dict[str, Any]:
    return {
        "limits": {
            "body_bytes_max": codec.BODY_BYTES_MAX,
            "depth_max": codec.DEPTH_MAX,
            "values_max": codec.VALUES_MAX,
            "integer_min": codec.INTEGER_MIN,
            "integer_max": codec.INTEGER_END - 1,
            "refunds_max": refunds.REFUNDS_MAX,
        },
        "currencies_not_chargeable": sorted(domain.CURRENCIES_NOT_CHARGEABLE),
        "chargeable_steps": dict(sorted(domain.CHARGEABLE_STEPS.items())),
        "white_space": WHITE_SPACE,
        "schemas": {name: _bare(schemas.schema(BY_WIRE_NAME[name])) for name in sorted(PUBLIC_COMMANDS)},
    }


def _bare(schema: Any) -> Any:
    """The schema without what only tells people something."""
    match schema:
        case {"properties": properties}:
            rest = {name: value for name, value in schema.items() if name != "properties"}
            return {"properties": {name: _bare(value) for name, value in properties.items()}, **_bare(rest)}
        case dict():
            return {name: _bare(value) for name, value in schema.items() if name not in TELLS}
        case list():
            return [_bare(one) for one in schema]
        case _:
            return schema
