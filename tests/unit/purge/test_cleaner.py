"""What a purge leaves of a text: nothing that reads as card data, and all the rest."""

import base64
import json
from random import Random
from urllib.parse import quote

import orjson
import pytest
from pydantic import TypeAdapter

from services.purge.cleaner import NAME_LEFT, TEXT_LEFT, Cleaner
from shared.card_data.values import has_card_data
from shared.contracts.base import Code, Name
from tests.cards.caught import INVISIBLE, SEPARATORS, kinds

NUMBER = "4242424242424242"
ALL, ONE = Cleaner(), Cleaner(NUMBER)
GROUPS = [NUMBER[at : at + 4] for at in range(0, 16, 4)]


@pytest.mark.parametrize("kind", kinds())
def test_of_what_the_border_catches_nothing_is_left(kind: str) -> None:
    source = Random(kind)
    for _ in range(20):
        text = kinds()[kind](source)
        assert has_card_data(text), "the corpus says so"
        cleaned = ALL.text(text)
        assert not has_card_data(cleaned)
        assert ALL.text(cleaned) == cleaned
        assert not has_card_data(ALL.body(json.dumps({"note": text}).encode()).decode())


@pytest.mark.parametrize("between", [*SEPARATORS.values(), *INVISIBLE.values(), ""], ids=repr)
def test_one_number_is_found_however_it_is_printed(between: str) -> None:
    for text in (f"card {between.join(GROUPS)}, paid", f"order_number: {between.join(GROUPS)}"):
        assert ONE.holds(text)
        assert not ONE.holds(ONE.text(text))
        assert ONE.text(text).startswith(text[:4])


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(f"card {NUMBER}".encode()).decode(),
        NUMBER.encode().hex(),
        quote(" ".join(GROUPS)).replace("4", "%34"),
        "".join(f"&#{ord(digit)};" for digit in NUMBER),
        quote(base64.b64encode(NUMBER.encode()).decode()).replace("N", "%4E"),
    ],
)
def test_one_number_is_found_behind_encodings(text: str) -> None:
    assert ONE.holds(text)
    assert not ONE.holds(ONE.text(text))


@pytest.mark.parametrize("text", ["4000056655665556", f"1{NUMBER}", f"{NUMBER}0", NUMBER[:-1], "4242", "", "INV-1"])
def test_another_number_is_left(text: str) -> None:
    assert ONE.text(text) == text


def test_what_is_left_of_an_identifier_is_one() -> None:
    for name in (NUMBER, f"card.{NUMBER}", f"{'x' * 47}.{NUMBER}"):
        left = ALL.text(name)
        assert left == NAME_LEFT
        for contract in (Name, Code):
            TypeAdapter[str](contract).validate_python(left)


def test_the_name_of_a_member_says_what_its_value_is() -> None:
    assert ALL.json({"cvv": "123", "order": "123"}) == {"cvv": NAME_LEFT, "order": "123"}
    assert ALL.text("123", "cvv") == NAME_LEFT


def test_members_are_cleaned_and_the_others_stay() -> None:
    payment_id = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    value = {"payment_id": payment_id, "amount_minor": 630400000000, "note": f"by {NUMBER}", "at": [1, None, True, 2.5]}
    assert ALL.document(value) == value | {"note": "by [card number]"}
    assert ALL.document({"number": int(NUMBER), NUMBER: "x"}) == {"number": TEXT_LEFT, NAME_LEFT: "x"}
    assert ALL.document({"a": [[NUMBER]]}) == {"a": [[NAME_LEFT]]}


def test_what_members_hold_only_together_is_taken_out() -> None:
    payment_id = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
    value = {"payment_id": payment_id, "fields": [{"name": "cvv", "value": "123"}]}
    assert has_card_data(orjson.dumps(value))
    cleaned = ALL.document(value)
    assert not has_card_data(orjson.dumps(cleaned))
    assert cleaned["payment_id"] == payment_id


@pytest.mark.parametrize("body", [b"", b"{}", b'{"a" : 1}', b"no JSON", b"\xff\x00" + NUMBER.encode(), b"[" * 2000])
def test_a_body_that_holds_none_keeps_its_bytes(body: bytes) -> None:
    assert ALL.body(body) == ONE.body(body) == body


def test_ids_of_invoices_are_renamed_or_kept() -> None:
    cleaner = Cleaner(renames={NUMBER: "purged-1"}, kept=frozenset({f"{NUMBER}-2"}))
    assert cleaner.text(NUMBER, "invoice_id") == "purged-1"
    assert cleaner.text(f"{NUMBER}-2", "invoice_id") == f"{NUMBER}-2"
    assert cleaner.text(f"of {NUMBER}") == "of [card number]"


def test_a_cleaner_does_not_show_the_number() -> None:
    assert NUMBER not in repr(Cleaner(NUMBER, {NUMBER: "x"}, frozenset({NUMBER})))
