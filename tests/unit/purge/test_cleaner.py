"""What a purge leaves of a text: nothing that reads as card data, and all the rest."""

import base64
import copy
import gzip
import json
from collections.abc import Iterator
from functools import reduce
from random import Random
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from services.purge.cleaner import NAME_LEFT, TEXT_LEFT, WITHHELD, Cleaner
from shared.card_data.scan import has_card_data
from shared.contracts.base import Code, Contract, Name
from shared.contracts.catalogue import BY_WIRE_NAME
from shared.contracts.schemas import examples_of
from tests.cards import passing
from tests.cards.caught import INVISIBLE, SEPARATORS, kinds
from tests.cards.places import body_with

NUMBER = "4242424242424242"
CAUGHT = kinds()
SAMPLES = 5
"""As many of each kind as the border is tried with: those of one kind differ in their numbers alone."""
ALL, ONE = Cleaner(), Cleaner(NUMBER)
GROUPS = [NUMBER[at : at + 4] for at in range(0, 16, 4)]


@pytest.mark.parametrize("kind", CAUGHT)
def test_of_what_the_border_catches_nothing_is_left(kind: str) -> None:
    source = Random(kind)
    for _ in range(SAMPLES):
        text = CAUGHT[kind](source)
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


@pytest.mark.parametrize("text", ["57130{}D28121010000012300000F", "5A08{}5F2403", "0000{}", "{}0"])
def test_one_number_is_found_within_other_digits(text: str) -> None:
    """It can be read there."""
    assert ONE.holds(text.format(NUMBER))
    assert NUMBER not in ONE.text(text.format(NUMBER))
    assert NUMBER not in ONE.body(f"data: {text.format(NUMBER)}".encode()).decode()


@pytest.mark.parametrize("text", ["4000056655665556", f"{NUMBER[:8]}0{NUMBER[8:]}", NUMBER[:-1], "4242", "", "INV-1"])
def test_another_number_is_left(text: str) -> None:
    assert ONE.text(text) == text


def texts_of(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The texts of a message, each with its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from texts_of(inner, (*path, name))
    elif isinstance(value, str):
        yield path, value


def is_valid(contract: type[Contract], data: dict[str, Any]) -> bool:
    try:
        contract.model_validate(data)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("contract", BY_WIRE_NAME.values(), ids=lambda contract: contract.__name__)
def test_a_message_that_a_contract_takes_is_one_afterwards(contract: type[Contract]) -> None:
    """It may have to be sent again. Whatever text of it a number can get into, except a JWE: what is left of one pays nothing."""
    for example in examples_of(contract):
        for path, text in texts_of(example):
            for written in (NUMBER, f"A {NUMBER}", f"{text}{NUMBER}", f"{text} {NUMBER}", " ".join(GROUPS)):
                message = copy.deepcopy(example)
                holder = reduce(lambda inner, name: inner[name], path[:-1], message)
                holder[path[-1]] = written
                if path[-1] != "jwe" and is_valid(contract, message):
                    assert is_valid(contract, ONE.document(message)), path


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


@pytest.mark.parametrize("body", [b"", b"{}", b'{"a" : 1}', b"no JSON", b"[" * 2000, b'{"a":1,"a":2}', "käse".encode()])
def test_a_body_that_holds_none_keeps_its_bytes(body: bytes) -> None:
    assert ALL.body(body) == ONE.body(body) == body


@pytest.mark.parametrize("kind", passing.kinds())
def test_what_the_border_takes_is_left(kind: str) -> None:
    """An order number that happens to be a card number as well stands behind its name, and is one for nobody."""
    source, one = Random(kind), passing.kinds()[kind]
    for _ in range(20):
        body = body_with(one.make(source), one.name)
        assert has_card_data(body) or ALL.body(body) == body
    assert ALL.document({"order_number": NUMBER}) == {"order_number": NUMBER}
    assert ALL.document({"order_number": NUMBER, "n": NUMBER}) == {"order_number": NUMBER, "n": NAME_LEFT}


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\x00" + NUMBER.encode(),
        f'{{"note": "{NUMBER}"}}'.encode("utf-16"),
        f'{{"note": "{NUMBER}"}}'.encode("cp500"),
        gzip.compress(NUMBER.encode(), mtime=0),
        b'{"note": "\x00"}',
    ],
    ids=["not UTF-8", "UTF-16", "EBCDIC", "compressed", "with NUL"],
)
def test_of_a_body_that_nobody_can_look_into_nothing_is_left(body: bytes) -> None:
    assert ALL.body(body) == ONE.body(body) == WITHHELD


@pytest.mark.parametrize(
    "body",
    [
        b'{"note": "%b", "note": "x"}',
        b'{"note": "x", "note": "%b"}',
        b'{"a": [{"%b": 1, "%b": 2}]}',
        b'{"note": "%b", "cvv": "123", "cvv": "12345"}',
        b'{"note": "%b", "half": "\\ud800"}',
        b'{"note": "%b", "long": 123456789012345678901234567890}',
        b'{"note": "%b"',
        b'{"note": "%b"} {"note": "%b"}',
        b"[" * 2000 + b'"%b"',
        b"call %b",
    ],
)
def test_what_readers_may_read_differently_is_cleaned_as_a_text(body: bytes) -> None:
    """Of two members with one name a reader sees one. The bytes hold both."""
    body = body.replace(b"%b", NUMBER.encode())
    for cleaner in (ALL, ONE):
        left = cleaner.body(body)
        assert NUMBER.encode() not in left
        assert not cleaner.holds(left.decode())
        assert cleaner.body(left) == left


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ({"fields": [4242, 4242, 4242, 4242]}, {"fields": [TEXT_LEFT] * 4}),
        ({"fields": ["4242", "4242", "4242", "4242"]}, {"fields": [TEXT_LEFT] * 4}),
        (NUMBER, NAME_LEFT),
        (int(NUMBER), TEXT_LEFT),
    ],
)
def test_what_members_hold_together_is_taken_out_where_it_stands(value: Any, left: Any) -> None:
    other = {"invoice_id": "INV-1", "amount_minor": 500}
    for cleaner in (ALL, ONE):
        cleaned = cleaner.document({"a": value, "b": other})
        assert cleaned == {"a": left, "b": other}
        assert not cleaner.holds(orjson.dumps(cleaned).decode())


@pytest.mark.parametrize("value", [{"cvv": 123}, {"cvv": [1, 2, 3]}, {"name": "cvv", "value": 123}, {"card_pin": 1234}])
def test_a_verification_value_may_be_a_number(value: Any) -> None:
    cleaned = ALL.document({"a": value, "amount_minor": 500})
    assert has_card_data(orjson.dumps(value))
    assert not has_card_data(orjson.dumps(cleaned))
    assert cleaned["amount_minor"] == 500


def test_a_uuid_is_never_changed() -> None:
    """It is the thread between a command, its events and its payment. Whoever writes a number into one has to know that it stays."""
    hidden = "42424242-4242-4242-8242-424242424242"
    assert ONE.holds(hidden[:18].replace("-", ""))
    for cleaner in (ALL, Cleaner(hidden[:18].replace("-", ""))):
        assert cleaner.text(hidden, "payment_id") == hidden
        assert cleaner.document({"payment_id": hidden, "n": 1}) == {"payment_id": hidden, "n": 1}


def test_ids_of_invoices_are_renamed_or_kept() -> None:
    cleaner = Cleaner(renames={NUMBER: "purged-1"}, kept=frozenset({f"{NUMBER}-2"}))
    assert cleaner.text(NUMBER, "invoice_id") == "purged-1"
    assert cleaner.text(f"{NUMBER}-2", "invoice_id") == f"{NUMBER}-2"
    assert cleaner.text(f"of {NUMBER}") == "of [card number]"


@pytest.mark.parametrize("number", [None, NUMBER])
def test_a_message_about_an_invoice_whose_id_is_kept_stays(number: str | None) -> None:
    cleaner = Cleaner(number, kept=frozenset({NUMBER}))
    message = {"subject": NUMBER, "data": {"invoice_id": NUMBER, "amount_minor": 500, "receipt_number": "ch_17"}}
    assert cleaner.document(message) == message
    body = json.dumps(message).encode()
    assert cleaner.body(body) == body
    assert cleaner.document(message | {"note": f"by {NUMBER}"}) == message | {"note": "by [card number]"}


def test_a_cleaner_does_not_show_the_number() -> None:
    assert NUMBER not in repr(Cleaner(NUMBER, {NUMBER: "x"}, frozenset({NUMBER})))
