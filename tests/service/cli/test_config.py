"""`remit config check` says what would be used and from where, and what is wrong. It shows no password."""

from pathlib import Path

from tests.service.cli.remit import remit

RIGHT = {
    "RABBITMQ_URL": "amqp://saga:hidden-1@broker:5672/v",
    "SAGA_DATABASE_URL": "postgresql://saga:hidden-2@a:1,b:2/saga?sslmode=require",
}


async def test_it_says_what_would_be_used_and_from_where(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("amqp://saga:hidden-3@broker/v")
    files = {"RABBITMQ_URL": "", "RABBITMQ_URL_FILE": str(tmp_path / "url")}
    typed = await remit("config", "check", "saga", "--json", environment=None, **RIGHT | files, HEALTH_PORT="8080")
    assert (typed.code, typed.err) == (0, "")
    said = {row["variable"]: (row["value"], row["from"]) for row in typed.json["settings"]["saga"]}
    assert said["RABBITMQ_URL"] == ("amqp://saga@broker/v", f"file {tmp_path / 'url'}")
    assert said["SAGA_DATABASE_URL"] == ("postgresql://saga@a:1,b:2/saga", "environment")
    assert said["HEALTH_PORT"] == ("8080", "environment")
    assert said["SAGA_DEADLINE_S"] == ("120,300,900,3600", "default")
    assert typed.json["mistakes"] == []
    assert "hidden" not in typed.out


async def test_a_page_shows_the_same_and_hides_keys() -> None:
    key = {"GATEWAY_API_KEY": "sk_test_hidden", "GATEWAY_WEBHOOK_SECRETS": "whsec_hidden", "GATEWAY_URL": "https://x"}
    url = {"PAYMENT_GATEWAY_DATABASE_URL": "postgresql://u:hidden@db/x", "RABBITMQ_URL": RIGHT["RABBITMQ_URL"]}
    variables = key | url | {"HTTPS_PROXY": "http://u:hidden@proxy:3128"}
    typed = await remit("config", "check", "payment_gateway", environment=None, **variables)
    assert typed.code == 0
    assert "hidden" not in typed.out.replace("(hidden)", "")
    assert typed.out.count("(hidden)") == 2


async def test_every_mistake_is_told_and_the_exit_code_is_2() -> None:
    wrong = {
        "SAGA_DATABASE_URL": "postgresql://u:hidden@db/x?sslmod=require",
        "HEALT_PORT": "1",
        "SAGA_DEADLINE_S": "2,1",
    }
    typed = await remit("config", "check", "saga", environment=None, **RIGHT | wrong)
    assert typed.code == 2
    for sentence in (
        "SAGA_DATABASE_URL has the parameter sslmod, which nobody knows; perhaps sslmode is meant.",
        "SAGA_DEADLINE_S must be 1 to 10 ascending numbers of seconds, from 0.1 to 86400, separated by commas",
        "HEALT_PORT is no setting: did you mean HEALTH_PORT?",
    ):
        assert sentence in " ".join(typed.err.split())
    assert "hidden" not in typed.out + typed.err


async def test_without_a_service_all_are_checked_and_what_they_share_is_told_once() -> None:
    typed = await remit("config", "check", "--json", HEALT_PORT="1")
    assert typed.code == 2
    assert list(typed.json["settings"]) == ["invoice", "payment_gateway", "saga", "staff", "desk", "door"]
    for name in ("HEALT_PORT", "RABBITMQ_URL", "STAFF_DATABASE_URL"):
        assert sum(name in mistake for mistake in typed.json["mistakes"]) == 1
