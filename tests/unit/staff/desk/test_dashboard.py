"""The address of a payment in the gateway's own pages: a link that staff open with what they know of a payment."""

import pytest

from services.staff.desk.settings import DeskSettings
from shared.settings import ConfigurationError, EnvironmentVariables


def read(url: str) -> str:
    """The setting, as a desk reads it."""
    variables = {"STAFF_DATABASE_URL": "postgresql://localhost/staff", "GATEWAY_DASHBOARD_URL": url}
    return DeskSettings.read(EnvironmentVariables(variables)).gateway_dashboard_url


@pytest.mark.parametrize("url", ["https://dashboard.example.com/p/{id}", "http://127.0.0.1:8421/_sandbox/books/{id}"])
def test_it_is_a_page_of_the_gateway_or_of_a_sandbox_on_this_machine(url: str) -> None:
    assert read(url) == url


@pytest.mark.parametrize(
    "url",
    ["http://dashboard.example.com/p/{id}", "https://dashboard.example.com/p/", "https:///{id}", "javascript:{id}"],
)
def test_nothing_else_is_taken(url: str) -> None:
    with pytest.raises(ConfigurationError, match="GATEWAY_DASHBOARD_URL"):
        read(url)
