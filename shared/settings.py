"""Settings come from environment variables and are read once at the start. A wrong one stops the program with one sentence."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit


class ConfigurationError(Exception):
    """A setting is missing or wrong. The text is one sentence that names the variable and says what to do."""


class EnvironmentVariables:
    """Reads settings from environment variables. Every method raises `ConfigurationError`, which never shows a URL: it holds a password."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables

    def text(self, name: str, default: str | None = None) -> str:
        value = self._variables.get(name, "").strip() or default
        if value is None:
            raise ConfigurationError(f"{name} is not set.")
        return value

    def url(self, name: str, *, schemes: tuple[str, ...], example: str) -> str:
        value = self._variables.get(name, "").strip()
        if not value:
            raise ConfigurationError(f"{name} is not set: it must be a URL such as {example}.")
        try:
            parts = urlsplit(value)
            complete = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            complete = False
        if not complete:
            raise ConfigurationError(f"{name} is not a URL such as {example}.")
        return value

    def integer(self, name: str, default: int, *, least: int, most: int) -> int:
        value = self._variables.get(name, "").strip()
        if not value:
            return default
        if not value.isdecimal() or not least <= int(value) <= most:
            raise ConfigurationError(f"{name} must be a whole number from {least} to {most}.")
        return int(value)

    def seconds(self, name: str, default: float, *, least: float, most: float) -> float:
        value = self._variables.get(name, "").strip()
        try:
            number = float(value) if value else default
        except ValueError:
            number = float("nan")
        if not least <= number <= most:  # false for NaN
            raise ConfigurationError(f"{name} must be a number of seconds from {least:g} to {most:g}.")
        return number

    def ladder_s(
        self,
        name: str,
        default: tuple[float, ...],
        *,
        steps_max: int,
        least: float = 0.0,
        most: float,
        ascending: bool = False,
    ) -> tuple[float, ...]:
        """A ladder: the wait before each further try, in seconds. There are 1 to `steps_max` waits, and none is 0.

        A ladder whose default is empty may be empty.
        """
        value = self._variables.get(name, "").strip()
        try:
            steps = tuple(float(step) for step in value.split(",")) if value else default
        except ValueError:
            steps = ()
        in_bounds = all(step > 0 and least <= step <= most for step in steps)  # false for NaN
        in_order = not ascending or list(steps) == sorted(steps)
        is_long_enough = bool(steps) or not (default or value)
        if not (is_long_enough and len(steps) <= steps_max and in_bounds and in_order):
            raise ConfigurationError(
                f"{name} must be 1 to {steps_max} {'ascending ' if ascending else ''}numbers of seconds, "
                f"{f'from {least:g}' if least else 'above 0'} to {most:g}, separated by commas, "
                f"such as {','.join(f'{step:g}' for step in default or (most,))}."
            )
        return steps

    def rabbitmq_url(self) -> str:
        return self.url("RABBITMQ_URL", schemes=("amqp", "amqps"), example="amqp://user:password@host:5672/")

    def database_url(self, service: str) -> str:
        name = f"{service.upper()}_DATABASE_URL"
        return self.url(
            name, schemes=("postgresql", "postgres"), example=f"postgresql://user:password@host:5432/{service}"
        )
