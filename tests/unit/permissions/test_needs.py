"""Each service has, in its own folder, what the tables of permissions give it: it is held against it at its start."""

from deploy.permissions import needs


def test_what_each_service_holds_itself_against_is_what_it_is_given() -> None:
    stale = [str(path) for path, text in needs.texts().items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run `make schema`"


def test_a_right_to_some_columns_names_them() -> None:
    assert needs.privileges("SELECT, UPDATE (a, b)") == {"SELECT": [], "UPDATE": ["a", "b"]}
