"""The settings of a program are declared as fields of a `Settings` class, and read once, at its start.

One declaration is all there is: pydantic checks the text against it, errors quote it, `remit config check` prints it, and
deploy/CONFIGURATION.md is written from it. We read the environment ourselves: pydantic-settings does not tell from where a value came, and
its import costs each process 80 ms (measured).
"""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo

from shared.misspelled import is_of_kubernetes, misspelled
from shared.records import dataclass
from shared.urls import NoUrlError, check_broker_url, check_database_url

SECRET_FILE_BYTES_MAX = 64 * 1024
"""The longest file of a secret: far longer than any URL or key, so that a wrong file is noticed."""
FOREIGN_VARIABLES = "FOREIGN_VARIABLES"
"""The variable with the names that look like a slip of ours and are another program's."""


class ConfigurationError(Exception):
    """A setting is missing or wrong. The text has one sentence for each, which names the variable and says what to do."""

    def __init__(self, *sentences: str) -> None:
        super().__init__(" ".join(sentences))
        self.sentences = sentences


# -- where values come from ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundText:
    """The text of a setting, and where it was found: in the environment, or in a file."""

    text: str
    origin: str


class EnvironmentVariables:
    """The environment of a program, or another mapping in its place. A blank variable counts as one that is not set."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables

    def text(self, name: str) -> str:
        """The text of a variable; empty if it is not set, or if Kubernetes has set it for a service of that name."""
        text = self._variables.get(name, "").strip()
        return "" if is_of_kubernetes(name, text) else text

    def find(self, name: str, *, is_secret: bool) -> FoundText | None:
        """The text of a setting; None if it is not set. A secret may stand in the file that NAME_FILE names.

        Raises `ConfigurationError` for a file that cannot be read, or if both are set.
        """
        text = self.text(name)
        path = self.text(file_variable(name)) if is_secret else ""
        if text and path:
            raise ConfigurationError(f"{name} and {file_variable(name)} are both set: unset one of them.")
        if path:
            return FoundText(_read_secret(file_variable(name), Path(path)), f"file {path}")
        return FoundText(text, "environment") if text else None

    def names_database(self, service: str) -> bool:
        """Whether the URL of this service's database is set."""
        name = database_variable(service)
        return bool(self.text(name) or self.text(file_variable(name)))

    def names_broker(self) -> bool:
        """Whether the broker's URL is set."""
        return bool(self.text("RABBITMQ_URL") or self.text(file_variable("RABBITMQ_URL")))

    def rabbitmq_url(self) -> str:
        """The broker's URL. Raises `ConfigurationError`."""
        return BrokerSettings.read(self).rabbitmq_url

    def database_url(self, service: str) -> str:
        """The URL of a service's database. Raises `ConfigurationError`."""
        url: str = _database_settings(service).read(self).database_url
        return url

    def misspelled(self, known: Sequence[str]) -> str | None:
        """A sentence about a variable that is none of the `known` and nearly one of them; None if there is none."""
        foreign = {name.strip() for name in self.text(FOREIGN_VARIABLES).split(",")}
        for name, meant in misspelled(self._variables, known):
            if name not in foreign:
                return (
                    f"{name} is no setting: did you mean {meant}? If another program reads it, "
                    f"add it to {FOREIGN_VARIABLES}."
                )
        return None


def file_variable(name: str) -> str:
    """The variable that names a file with the value of the variable `name`, as orchestrators mount secrets."""
    return f"{name}_FILE"


def _read_secret(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
        text = content.decode().strip()
    except OSError as error:
        raise ConfigurationError(f"{variable} cannot be read: {error.strerror}.") from None
    except ValueError:  # a NUL in the path, or bytes that are no text
        raise ConfigurationError(f"{variable} must name a text file in UTF-8.") from None
    if not text or len(content) > SECRET_FILE_BYTES_MAX or "\0" in text:
        raise ConfigurationError(f"{variable} must name a file with the value alone: this one is empty or too long.")
    return text


# -- declarations -------------------------------------------------------------------------------------------------------------------------


def variable(
    name: str, default: Any = ..., *, about: str, secret: bool = False, must: str = "", unset: str = "", **bounds: Any
) -> Any:
    """The declaration of the setting that the variable `name` holds. Without a `default` it has to be set.

    `about` is one sentence for an operator. `must` says what a value must be, where type and bounds do not. `unset` says what holds without
    a value, where the default does not. `bounds` are those of pydantic's `Field`.
    """
    extra: dict[str, JsonValue] = {"must": must, "unset": unset, "secret": secret}
    return Field(default, alias=name, description=about, repr=not secret, json_schema_extra=extra, **bounds)


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _ascending(waits: tuple[float, ...]) -> tuple[float, ...]:
    if list(waits) != sorted(waits):
        raise _NotAsDeclared
    return waits


class _NotAsDeclared(ValueError):
    """The value is not what the declaration says. Any other ValueError of a check has a text of its own, which follows the name."""


def _networks(names: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in names)
    for name in names:
        try:
            network = ip_network(name)
        except ValueError:
            raise _NotAsDeclared from None  # the web server would pass over it, and believe nobody
        if not network.prefixlen:
            raise ValueError("must not name all addresses: whoever asks could say that another one is theirs")
    return names


BY_COMMAS = BeforeValidator(_split)
"""For a tuple: its members stand in the text separated by commas."""
ASCENDING = AfterValidator(_ascending)
"""For a tuple: no member is below the one before it."""
NETWORKS = AfterValidator(_networks)
"""For a tuple: each member is an address or a network, and none is all of them."""
UPPER_CASE = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
LOWER_CASE = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


BrokerUrl = Annotated[str, AfterValidator(check_broker_url)]
DatabaseUrl = Annotated[str, AfterValidator(check_database_url)]


@dataclass(frozen=True, slots=True)
class Declared:
    """A setting as it was declared, in words."""

    name: str
    must: str
    unset: str
    about: str
    is_secret: bool
    is_required: bool
    has_plain_default: bool
    """Whether `unset` is a value, as one would set it, and not words about what holds then."""


class Settings(BaseModel):
    """Settings that are read together. A subclass declares each as a field, by `variable`."""

    model_config = ConfigDict(
        frozen=True, populate_by_name=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )
    others: ClassVar[Sequence[str]] = ()
    """Names of variables that are read elsewhere, and so are no slips."""

    @classmethod
    def read(cls, environment: EnvironmentVariables | None = None) -> Self:
        """Read the settings. Raises `ConfigurationError`, which never shows a value: it may hold a password."""
        found = cls.found(environment or EnvironmentVariables())
        try:
            settings = cls.model_validate({name: one.text for name, one in found.items() if one is not None})
        except ValidationError as error:
            raise ConfigurationError(*cls._sentences(error)) from None
        settings.check()
        return settings

    @classmethod
    def found(cls, environment: EnvironmentVariables) -> dict[str, FoundText | None]:
        """The texts of all these settings by the names of their variables; None for one that is not set. Raises `ConfigurationError`."""
        return {name: environment.find(name, is_secret=is_secret) for name, is_secret in cls._named().items()}

    @classmethod
    def known_variables(cls) -> list[str]:
        """The names of all variables that these settings may be given by."""
        named = cls._named()
        files = [file_variable(name) for name, is_secret in named.items() if is_secret]
        return [*named, *files, *cls.others]

    @classmethod
    def _named(cls) -> dict[str, bool]:
        """The names of the variables, and whether what each holds is secret. A start needs no more, and a JSON Schema takes 20 ms."""
        fields = (field for field in cls.model_fields.values() if field.alias is not None)
        return {str(field.alias): _is_secret(field) for field in fields}

    @classmethod
    def declared(cls) -> list[Declared]:
        """These settings, in words."""
        schemas = cls.model_json_schema()["properties"]
        return [
            _in_words(field.alias, field, schemas[field.alias])
            for field in cls.model_fields.values()
            if field.alias is not None
        ]

    def check(self) -> None:
        """Raise `ConfigurationError` for settings that do not fit together. It reads the files that they name."""

    @classmethod
    def _sentences(cls, error: ValidationError) -> list[str]:
        """A sentence for each variable that is missing or wrong."""
        must = {one.name: one.must for one in cls.declared()}
        sentences: dict[str, str] = {}
        for problem in error.errors(include_url=False, include_input=False):
            name, told = str(problem["loc"][0]), problem.get("ctx", {}).get("error")
            if problem["type"] == "missing":
                sentence = f"{name} is not set: it must be {must[name]}."
            elif isinstance(told, ValueError) and not isinstance(told, _NotAsDeclared | NoUrlError):
                sentence = f"{name} {told}."
            else:
                sentence = f"{name} must be {must[name]}."
            sentences.setdefault(name, sentence)
        return list(sentences.values())


def _is_secret(field: FieldInfo) -> bool:
    return isinstance(extra := field.json_schema_extra, dict) and bool(extra["secret"])


def _in_words(name: str, field: FieldInfo, schema: Mapping[str, Any]) -> Declared:
    is_required = field.is_required()
    unset = "required" if is_required else schema["unset"] or _as_text(field.default)
    must = schema["must"] or _must(name, field, schema)
    is_plain = not is_required and not schema["unset"]
    return Declared(name, must, unset, str(field.description), _is_secret(field), is_required, is_plain)


def _must(name: str, field: FieldInfo, schema: Mapping[str, Any]) -> str:
    """What a value must be, from its JSON Schema: the words after `must be`."""
    unit = " of seconds" if name.endswith("_S") else ""
    match schema:
        case {"enum": [*words]}:
            return f"one of {', '.join(words)}"
        case {"type": "array", "items": {"maximum": highest, **bounds}, "maxItems": members}:
            order = "ascending " if ASCENDING in field.metadata else ""
            lowest = f"from {bounds['minimum']:g}" if "minimum" in bounds else f"above {bounds['exclusiveMinimum']:g}"
            span = f"{lowest} to {_as_text(float(highest))}"
            example = _as_text(field.default or (float(highest),))
            return f"1 to {members} {order}numbers{unit}, {span}, separated by commas, such as {example}"
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"a whole number from {least} to {most}"
        case {"type": "number", "minimum": least, "maximum": most}:
            return f"a number{unit} from {_as_text(least)} to {_as_text(most)}"
        case _:
            return "a text"


def _as_text(value: object) -> str:
    """A value as an operator would write it."""
    match value:
        case tuple():
            return ",".join(map(_as_text, value))
        case float():
            return f"{value:.10g}"
        case None:
            return ""
        case _:
            return str(value)


# -- what every program has ---------------------------------------------------------------------------------------------------------------


class BrokerSettings(Settings):
    """Where the broker is."""

    rabbitmq_url: BrokerUrl = variable(
        "RABBITMQ_URL",
        about="The broker, with the user of this process ([URLs](README.md#urls)). `amqps://` for TLS.",
        must="a URL such as amqp://user:password@host:5672/%2F",
        secret=True,
    )


def database_variable(service: str) -> str:
    """The name of the variable with the URL of a service's database."""
    return f"{service.upper()}_DATABASE_URL"


def database_url(service: str) -> Any:
    """The declaration of the URL of a service's database."""
    return variable(
        database_variable(service),
        about="The database of this service, with the role of this process ([URLs](README.md#urls)).",
        must=f"a URL such as postgresql://user:password@host:5432/{service}",
        secret=True,
    )


@cache
def _database_settings(service: str) -> Any:
    return create_model("DatabaseSettings", __base__=Settings, database_url=(DatabaseUrl, database_url(service)))
