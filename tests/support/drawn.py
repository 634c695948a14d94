"""Messages drawn from a JSON Schema, and from just outside it: each with one keyword broken. The same seed draws the same.

It knows the keywords that our schemas use, and fails for any other: a keyword that nobody draws would be a keyword that nobody checks.
"""

import copy
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any
from uuid import UUID

Schema = dict[str, Any]
Place = tuple[Any, Any]
"""What holds a value, and under which name or index."""

KNOWN = {
    "type", "properties", "required", "additionalProperties", "propertyNames", "maxProperties", "items", "maxItems", "anyOf", "oneOf",
    "enum", "const", "minimum", "maximum", "minLength", "maxLength", "pattern", "not", "format", "$ref",
    "contentEncoding", "contentMediaType", "contentSchema", "description", "default", "title",
}  # fmt: skip
PRINTED = "abcxyzABC0189 -_.:/#@äß漢𝒳'\"<&\\"
ODD = "\x01\t\n\r\x1f\x7f\x85\x9f\u200b\u2028\u2029\u202e\u2066\ufeff\u3000\x1c é!*<>'\"\\"
ANYTHING = [None, True, False, 0, -1, 7, 1.0, 0.5, 10**18, "", "x", " ", "null", [], [1], {}, {"a": 1}]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Drawn:
    """Draws values of the schemas of one document."""

    def __init__(self, document: Schema, seed: int) -> None:
        self._defs: Schema = document["$defs"]
        self._random = Random(seed)

    # -- inside ------------------------------------------------------------------------------------------------------------------------

    def inside(self, schema: Schema) -> Any:
        """A value that the schema allows."""
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        for choice in ("anyOf", "oneOf"):
            if choice in schema and "properties" not in schema:
                return self.inside(self._random.choice(schema[choice]))
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                most = min(schema.get("maxItems", 3), 3)
                return [self.inside(schema["items"]) for _ in range(self._random.randint(0, most))]
            case "string":
                return self._string(schema)
            case "integer":
                return self._number(schema["minimum"], schema.get("maximum", 2**63 - 1))
            case "number":
                return self._random.choice([schema["minimum"], 0.5, 7, 1e9])
            case "boolean":
                return self._random.random() < 0.5
            case "null":
                return None
            case _:
                return copy.deepcopy(self._random.choice(ANYTHING))

    def _resolved(self, schema: Schema) -> Schema:
        while "$ref" in schema:
            schema = self._defs[schema["$ref"].rpartition("/")[2]]
        strange = set(schema) - KNOWN
        assert not strange, f"tests/support/drawn.py does not draw {strange}"
        return schema

    def _number(self, least: int, most: int) -> int:
        return self._random.choice([least, most, self._random.randint(least, most), min(most, least + 4_200)])

    def _object(self, schema: Schema) -> dict[str, Any]:
        if "properties" not in schema:
            names = [self.inside(schema["propertyNames"]) for _ in range(self._random.randint(0, 3))]
            return {name: self.inside(schema["additionalProperties"]) for name in names}
        left_out = self._random.random()
        drawn = {
            name: self.inside(of)
            for name, of in schema["properties"].items()
            if name in schema.get("required", ()) or self._random.random() > left_out
        }
        for alternatives in [schema["oneOf"]] if "oneOf" in schema else []:
            for one in alternatives:
                drawn.pop(one["required"][0], None)
            name = alternatives[0]["required"][0]
            drawn[name] = self.inside(schema["properties"][name])
        if self._random.random() < 0.2:
            drawn["addedlater"] = copy.deepcopy(self._random.choice(ANYTHING))
        return drawn

    def _string(self, schema: Schema) -> str:
        form = schema.get("format")
        if form == "uuid":
            text = str(UUID(int=self._random.getrandbits(128)))
            return self._random.choice([text, text.upper()])
        if form == "date-time":
            return self._time()
        least, most = schema.get("minLength", 0), schema.get("maxLength", 300)
        length = self._random.choice([least, most, self._random.randint(least, most), min(most, least + 5)])
        alphabet = [PRINTED, LETTERS, "0123456789abcdef", LETTERS + "-_"]
        for _ in range(100):
            text = "".join(self._random.choices(self._random.choice(alphabet), k=length))
            if matches(schema, text):
                return text
        return made_up(schema)

    def _time(self) -> str:
        zone = self._random.choice([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=3))])
        moment = datetime(2026, 1, 1, tzinfo=zone) + timedelta(microseconds=self._random.randrange(10**15))
        return self._random.choice(
            [
                moment.isoformat(),
                moment.isoformat(sep=" ", timespec="seconds"),
                f"{moment:%Y-%m-%dt%H:%M:%S}.{self._random.randrange(10**9)}z",
                f"{moment:%Y-%m-%dT%H:%M}:60Z",
            ]
        )

    # -- just outside ------------------------------------------------------------------------------------------------------------------

    def outside(self, schema: Schema, value: Any) -> Any:
        """The value with one keyword of its schema broken, somewhere in it. Some ways to break one break nothing here."""
        holder = {"": copy.deepcopy(value)}
        place, broken = self._random.choice(list(self._places(schema, (holder, ""))))
        self._broken(place, broken)
        return holder[""]

    def _places(self, schema: Schema, place: Place) -> Iterator[tuple[Place, Schema]]:
        schema, value = self._resolved(schema), place[0][place[1]]
        for choice in ("anyOf", "oneOf"):
            if choice in schema and "properties" not in schema:
                for one in schema[choice]:
                    yield from self._places(one, place)
                return
        yield place, schema
        if isinstance(value, dict) and schema.get("type") == "object":
            for name in list(value):
                of = schema.get("properties", {}).get(name, schema["additionalProperties"])
                yield from self._places(of, (value, name))
        if isinstance(value, list) and schema.get("type") == "array":
            for index in range(len(value)):
                yield from self._places(schema["items"], (value, index))

    def _broken(self, place: Place, schema: Schema) -> None:
        holder, name = place
        value = holder[name]
        ways: list[Callable[[], Any]] = [lambda: copy.deepcopy(self._random.choice(ANYTHING))]
        if "minimum" in schema:
            ways += [lambda: schema["minimum"] - 1, lambda: float(schema["minimum"]), lambda: str(schema["minimum"])]
        if "maximum" in schema:
            ways += [lambda: schema["maximum"] + 1, lambda: schema["maximum"] + 0.5]
        if isinstance(value, str):
            ways += self._of_text(value, schema)
        if isinstance(value, list) and "maxItems" in schema:
            ways.append(lambda: (value or [self.inside(schema["items"])]) * (schema["maxItems"] + 1))
        if isinstance(value, dict) and value:
            ways += [lambda: self._without_one(value)] * 3
            ways.append(lambda: value | {self._random.choice(ODD): self._random.choice(ANYTHING)})
            if "maxProperties" in schema:
                more = {f"a{number}": "x" for number in range(schema["maxProperties"] + 1)}
                ways.append(lambda: value | more)
        holder[name] = self._random.choice(ways)()

    def _without_one(self, value: dict[str, Any]) -> dict[str, Any]:
        gone = self._random.choice(list(value))
        return {name: one for name, one in value.items() if name != gone}

    def _of_text(self, value: str, schema: Schema) -> list[Callable[[], Any]]:
        at = self._random.randint(0, len(value))
        odd = self._random.choice(ODD)
        ways: list[Callable[[], Any]] = [
            lambda: value + odd,
            lambda: odd + value,
            lambda: value[:at] + odd + value[at:],
            lambda: value[:-1],
            value.swapcase,
            lambda: "",
            lambda: odd * max(len(value), 1),
        ]
        if "maxLength" in schema:
            ways += [
                lambda: (value or "x").ljust(schema["maxLength"], "x"),
                lambda: value.ljust(schema["maxLength"] + 1, "x"),
            ]
            ways.append(lambda: value.ljust(schema["maxLength"] + 1))
        if "minLength" in schema:
            ways.append(lambda: value[: schema["minLength"] - 1])
        if schema.get("format") == "uuid":
            ways += [lambda: value.replace("-", ""), lambda: f"urn:uuid:{value}", lambda: f"{{{value}}}"]
            ways += [lambda: value.replace("-", "_"), lambda: value[:-1] + "g", lambda: value[:-1] + "\uff11"]
        if schema.get("format") == "date-time":
            ways += [
                lambda: value[:10],
                lambda: value[:19],
                lambda: value.replace(":", ""),
                lambda: value.replace(".", ","),
            ]
            ways += [
                lambda: "2026-W01-1",
                lambda: "1790000000",
                lambda: value + "Z",
                lambda: value.replace("2", "\u0662"),
            ]
        return ways


def matches(schema: Schema, text: str) -> bool:
    """Whether the text is one of this schema of texts, as Python reads regular expressions."""
    pattern, forbidden = schema.get("pattern", ""), schema.get("not", {}).get("pattern")
    return re.search(pattern, text) is not None and (forbidden is None or re.search(forbidden, text) is None)


def made_up(schema: Schema) -> str:
    """A text for a pattern that no random text matches."""
    digits = "0123456789abcdef"
    for text in (
        digits * 4,
        f"17:{digits * 4}",
        f"00-{digits * 2}-{digits}-01",
        "/remit/invoice",
        "a" * schema.get("minLength", 1),
    ):
        if matches(schema, text):
            return text
    raise AssertionError(f"tests/support/drawn.py draws no text for {schema}")
