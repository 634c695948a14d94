"""A setting is declared once. A mistake in one gives one sentence that names the variable, says what would be right, and shows no value."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from deploy.cli.config import settings_of
from deploy.cli.operate import Service
from services.invoice.door.settings import DoorSettings
from services.staff.desk.settings import DeskSettings
from shared.misspelled import distance, misspelled
from shared.settings import (
    ASCENDING,
    BY_COMMAS,
    FOREIGN_VARIABLES,
    SECRET_FILE_BYTES_MAX,
    BrokerUrl,
    ConfigurationError,
    EnvironmentVariables,
    Settings,
    file_variable,
    variable,
)

Waits = Annotated[tuple[Annotated[float, Field(gt=0, le=60)], ...], BY_COMMAS]
Reminders = Annotated[tuple[Annotated[float, Field(ge=0.5, le=60)], ...], BY_COMMAS, ASCENDING]


class SettingsOfEachKind(Settings):
    """One setting of each kind."""

    url: BrokerUrl = variable("THE_URL", secret=True, must="a URL such as amqp://host", about="A URL.")
    number: int = variable("THE_NUMBER", 3, ge=1, le=5, about="A number.")
    time_s: float = variable("THE_TIME_S", 2.5, ge=0.5, le=60.0, about="A time.")
    mode: Literal["this", "that"] = variable("THE_MODE", "this", about="A mode.")
    waits_s: Waits = variable("WAITS_S", (1.0, 2.5), min_length=1, max_length=3, about="Waits.")
    reminders_s: Reminders = variable("REMINDERS_S", (1.0, 2.5), min_length=1, max_length=3, about="Reminders.")


def read(**variables: str) -> SettingsOfEachKind:
    return SettingsOfEachKind.read(EnvironmentVariables({"THE_URL": "amqp://host"} | variables))


def test_what_is_not_set_or_blank_has_its_default() -> None:
    defaults = {"number": 3, "time_s": 2.5, "mode": "this", "waits_s": (1.0, 2.5), "reminders_s": (1.0, 2.5)}
    assert read().model_dump() == {"url": "amqp://host"} | defaults
    assert read(THE_NUMBER=" ", WAITS_S="") == read()


@pytest.mark.parametrize(
    ("name", "value", "field", "means"),
    [
        ("THE_NUMBER", " 5 ", "number", 5),
        ("THE_TIME_S", "1e1", "time_s", 10.0),
        ("WAITS_S", " 5 ", "waits_s", (5.0,)),
        ("WAITS_S", "60, 0.1,60", "waits_s", (60.0, 0.1, 60.0)),
        ("WAITS_S", "1e-9", "waits_s", (1e-9,)),
        ("REMINDERS_S", "0.5,0.5,60", "reminders_s", (0.5, 0.5, 60.0)),
    ],
)
def test_a_text_is_read_as_it_was_declared(name: str, value: str, field: str, means: Any) -> None:
    assert getattr(read(**{name: value}), field) == means


WAITS = "WAITS_S must be 1 to 3 numbers of seconds, above 0 to 60, separated by commas, such as 1,2.5."
REMINDERS = (
    "REMINDERS_S must be 1 to 3 ascending numbers of seconds, from 0.5 to 60, separated by commas, such as 1,2.5."
)
NUMBER = "THE_NUMBER must be a whole number from 1 to 5."
TIME = "THE_TIME_S must be a number of seconds from 0.5 to 60."


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("THE_NUMBER", ("0", "6", "1.5", "one", "nan"), NUMBER),
        ("THE_TIME_S", ("0.4", "61", "nan", "inf", "soon"), TIME),
        ("THE_MODE", ("those", "THIS"), "THE_MODE must be one of this, that."),
        ("WAITS_S", ("soon", "1,", "0", "-1", "nan", "inf", "60.1", "1,1,1,1"), WAITS),
        ("REMINDERS_S", ("0.4,1", "2,1"), REMINDERS),
        ("THE_URL", ("http://host", "amqp://", "amqp://host:x", "host"), "THE_URL must be a URL such as amqp://host."),
    ],
)
def test_a_wrong_value_is_told_in_one_sentence_that_does_not_show_it(
    name: str, values: tuple[str, ...], sentence: str
) -> None:
    for value in values:
        with pytest.raises(ConfigurationError) as told:
            read(**{name: value})
        assert str(told.value) == sentence, value


@pytest.mark.parametrize("settings", [DoorSettings, DeskSettings])
def test_a_web_process_lists_nothing_that_it_does_not_obey(settings: type[DoorSettings | DeskSettings]) -> None:
    """It opens no tracer, and has no user of the broker."""
    assert [name for name in settings.known_variables() if name.startswith(("OTEL_", "RABBITMQ_"))] == []


@pytest.mark.parametrize("settings", [DoorSettings, DeskSettings])
def test_a_proxy_is_an_address_or_a_network_and_not_everybody(settings: type[DoorSettings | DeskSettings]) -> None:
    """From whom all is believed, nobody is counted: each request names another address."""
    name = "DOOR_PROXIES" if settings is DoorSettings else "DESK_PROXIES"
    known = {"SENDERS": "trusted"} | {
        f"{service}_DATABASE_URL": "postgresql://host/x" for service in ("INVOICE", "STAFF")
    }
    for value, sentence in {
        "*": "must be addresses or networks, separated by commas.",
        "proxy.example.com": "must be addresses or networks, separated by commas.",
        "10.0.0.1/8": "must be addresses or networks, separated by commas.",
        "192.0.2.1,0.0.0.0/0": "must not name all addresses: whoever asks could say that another one is theirs.",
        "::/0": "must not name all addresses: whoever asks could say that another one is theirs.",
    }.items():
        with pytest.raises(ConfigurationError) as told:
            settings.read(EnvironmentVariables(known | {name: value}))
        assert str(told.value) == f"{name} {sentence}"
    read_ = settings.read(EnvironmentVariables(known | {name: "10.0.0.0/8, 192.0.2.1,2001:db8::/32"}))
    assert read_.proxies == ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")


def test_everything_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as told:
        SettingsOfEachKind.read(EnvironmentVariables({"THE_NUMBER": "9"}))
    assert str(told.value) == f"THE_URL is not set: it must be a URL such as amqp://host. {NUMBER}"


# -- secrets in files ---------------------------------------------------------------------------------------------------------------------


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("amqp://user:password@host\n")
    variables = EnvironmentVariables({"THE_URL_FILE": str(tmp_path / "url")})
    assert SettingsOfEachKind.read(variables).url == "amqp://user:password@host"
    found = SettingsOfEachKind.found(variables)["THE_URL"]
    assert found is not None
    assert found.origin == f"file {tmp_path / 'url'}"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "THE_URL_FILE cannot be read: No such file or directory."),
        (b" \n", "THE_URL_FILE must name a file with the value alone: this one is empty or too long."),
        (b"x" * (SECRET_FILE_BYTES_MAX + 1), "THE_URL_FILE must name a file with the value alone: this one is empty"),
        (b"\xff", "THE_URL_FILE must name a text file in UTF-8."),
    ],
    ids=["missing", "empty", "too long", "no text"],
)
def test_a_file_that_holds_no_secret_is_a_mistake(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "url").write_bytes(content)
    with pytest.raises(ConfigurationError) as told:
        SettingsOfEachKind.read(EnvironmentVariables({"THE_URL_FILE": str(tmp_path / "url")}))
    assert str(told.value).startswith(sentence)


def test_a_secret_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^THE_URL and THE_URL_FILE are both set: unset one of them\.$"):
        read(THE_URL_FILE=str(tmp_path))


def test_a_setting_that_is_no_secret_is_read_from_no_file() -> None:
    assert read(THE_NUMBER_FILE="/nowhere").number == 3


# -- slips --------------------------------------------------------------------------------------------------------------------------------

KNOWN = ["RABBITMQ_URL", "HEALTH_PORT", "GATEWAY_MODE", "GATEWAY_URL", "SENDERS", "USER", "INVOICE_DATABASE_URL"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HEALT_PORT", "HEALTH_PORT"),
        ("GATWAY_MODE", "GATEWAY_MODE"),
        ("RABITMQ_URL", "RABBITMQ_URL"),
        ("RABBITMQ_ULR", "RABBITMQ_URL"),
        ("rabbitmq_url", "RABBITMQ_URL"),
        ("SENDER", "SENDERS"),
        ("INVOICES_DATABASE_URL", "INVOICE_DATABASE_URL"),
    ],
)
def test_a_slip_is_named_with_what_was_meant(name: str, meant: str) -> None:
    assert list(misspelled({name: "x"}, KNOWN)) == [(name, meant)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEALT_PORT", " "),
        ("HEALTH_PORT", "8080"),
        ("USED", "x"),
        ("HEALTHY_PORT", "tcp://10.0.0.7:8080"),
        ("GATEWAY_SERVICE_HOST", "10.0.0.7"),
        ("GATEWAY_PORT", "tcp://10.0.0.7:443"),
        ("GATEWAY_PORT_443_TCP_ADDR", "10.0.0.7"),
        ("RABBITMQ_PORT", "tcp://10.0.0.7:5672"),
        ("RABBITMQ_HOST", "broker"),
        ("SENDMAIL", "x"),
    ],
)
def test_what_is_blank_known_or_of_others_is_no_slip(name: str, value: str) -> None:
    assert not list(misspelled({name: value}, KNOWN))


def test_a_variable_of_another_program_can_be_named() -> None:
    slip = {"RABBITMQ_URI": "x"}
    assert EnvironmentVariables(slip).misspelled(KNOWN) == (
        "RABBITMQ_URI is no setting: did you mean RABBITMQ_URL? "
        "If another program reads it, add it to FOREIGN_VARIABLES."
    )
    assert EnvironmentVariables(slip | {FOREIGN_VARIABLES: "X, RABBITMQ_URI"}).misspelled(KNOWN) is None


@pytest.mark.parametrize(
    ("left", "right", "far"),
    [("abc", "abc", 0), ("abc", "acb", 1), ("abc", "bc", 1), ("abc", "xbz", 2), ("", "abc", 3)],
)
def test_distance_counts_letters(left: str, right: str, far: int) -> None:
    assert distance(left, right) == distance(right, left) == far


def test_a_port_that_kubernetes_names_for_a_service_is_not_set() -> None:
    environment = EnvironmentVariables({"HEALTH_PORT": "tcp://10.0.0.7:80", "RABBITMQ_URL": "tcp://10.0.0.7:80"})
    assert (environment.text("HEALTH_PORT"), environment.text("RABBITMQ_URL")) == ("", "tcp://10.0.0.7:80")


def test_no_setting_is_taken_for_a_slip_of_another() -> None:
    """All variables of all services may stand in one environment."""
    names = {name for service in Service for name in settings_of(service).known_variables()}
    everything = dict.fromkeys(names, "x")
    for service in Service:
        slips = dict(misspelled(everything, settings_of(service).known_variables()))
        assert not slips


def test_secrets_are_not_in_the_repr_of_settings() -> None:
    assert "password" not in repr(read(THE_URL="amqp://user:password@host"))
    assert file_variable("A") == "A_FILE"
