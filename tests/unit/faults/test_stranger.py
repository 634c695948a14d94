"""Whoever listens to public messages recognises any part of a secret that it hears."""

from tests.faults.stranger import PART_LENGTH, PublicListener

SECRET = "eyJhbGciOiJSU0EtT0FFUC0yNTYifQ.c2VjcmV0"


def listener_that_heard(*messages: str) -> PublicListener:
    listener = PublicListener()
    listener.messages += [message.encode() for message in messages]
    return listener


def test_a_part_of_a_secret_is_recognised_wherever_it_stands() -> None:
    for at in (0, 10, len(SECRET) - PART_LENGTH):
        part = SECRET[at : at + PART_LENGTH]
        assert listener_that_heard("{}", f'{{"note": "x{part}y"}}').overheard([SECRET]) == [part]


def test_a_whole_secret_is_heard_in_all_its_parts() -> None:
    assert len(listener_that_heard(SECRET).overheard([SECRET, "another one"])) == len(SECRET) - PART_LENGTH + 1


def test_less_than_a_part_is_not_taken_for_one() -> None:
    assert listener_that_heard(SECRET[: PART_LENGTH - 1], SECRET[1:PART_LENGTH]).overheard([SECRET]) == []
