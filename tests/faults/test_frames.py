"""Frames are recognised however the network splits or joins them."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.frames import Amqp, Flow, Frame, FrameEvent, Http, Postgres, Session, Speaks

Sent = tuple[Flow, bytes]


def method(class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    payload = struct.pack("!HH", class_id, method_id) + arguments
    return struct.pack("!BHI", 1, 1, len(payload)) + payload + b"\xce"


ACK = method(60, 80, struct.pack("!Qb", 1, 1))
DELIVER = method(60, 60, b"\x00\x3c\x00\x50")
BODY = struct.pack("!BHI", 3, 1, 5) + ACK[:5] + b"\xce"


def message(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + struct.pack("!I", 4 + len(payload)) + payload


def startup(code: int, payload: bytes = b"") -> bytes:
    return struct.pack("!II", 8 + len(payload), code) + payload


TO_SERVER, TO_CLIENT = Flow.TO_SERVER, Flow.TO_CLIENT
SYNC, OK = message(b"S"), message(b"R", struct.pack("!I", 0))
LOGIN: list[Sent] = [
    (TO_SERVER, startup(80877103)),
    (TO_CLIENT, b"N"),
    (TO_SERVER, startup(196608, b"user\0postgres\0\0")),
    (TO_CLIENT, OK + message(b"S", b"TimeZone\0UTC\0") + message(b"Z", b"I")),
]


def simple(query: bytes, tag: bytes, status: bytes) -> list[Sent]:
    return [
        (TO_SERVER, message(b"Q", query + b"\0")),
        (TO_CLIENT, message(b"C", tag + b"\0") + message(b"Z", status)),
    ]


def prepare(name: bytes, query: bytes) -> list[Sent]:
    return [
        (
            TO_SERVER,
            message(b"P", name + b"\0" + query + b"\0\0\0") + message(b"D", b"S" + name + b"\0") + message(b"H"),
        ),
        (TO_CLIENT, message(b"1") + message(b"t", b"\0\0") + message(b"n")),
    ]


def execute(name: bytes, tag: bytes, status: bytes) -> list[Sent]:
    return [
        (TO_SERVER, message(b"B", b"\0" + name + b"\0") + message(b"E", b"\0\0\0\0\0") + SYNC),
        (TO_CLIENT, message(b"2") + message(b"C", tag + b"\0") + message(b"Z", status)),
    ]


INSERTS = b"WITH w0 AS (INSERT INTO events VALUES (1)), w1 AS (INSERT INTO outbox VALUES (2)) SELECT"


def frames(session: Session, sent: list[Sent], cut_at: int = 1 << 30) -> list[Frame]:
    """The frames of everything that was sent, in pieces of at most `cut_at` bytes."""
    return [
        frame
        for flow, data in sent
        for at in range(0, len(data), cut_at)
        for frame in session.cut(flow, data[at : at + cut_at])
    ]


def events(speaks: Speaks, sent: list[Sent], cut_at: int = 1 << 30) -> list[FrameEvent]:
    return [frame.event for frame in frames(speaks(), sent, cut_at) if frame.event]


def test_the_sender_tells_a_confirm_from_an_ack() -> None:
    assert events(Amqp, [(TO_CLIENT, DELIVER + ACK + ACK), (TO_SERVER, ACK)]) == [
        FrameEvent.CONFIRM,
        FrameEvent.CONFIRM,
        FrameEvent.ACK,
    ]


def test_bytes_inside_a_body_are_not_taken_for_a_frame() -> None:
    sent = [(TO_CLIENT, BODY), (TO_SERVER, b"AMQP\0\0\x09\x01" + BODY)]
    assert events(Amqp, sent) == [FrameEvent.BODY, FrameEvent.PUBLISHED]


def test_every_part_of_a_published_message_shows_its_text() -> None:
    publish = method(60, 40, b"\0\0\x06orders\x03key\0")
    header = struct.pack("!BHI", 2, 1, 6) + b"reply!" + b"\xce"
    parts = frames(Amqp(), [(TO_SERVER, publish + header + BODY + ACK)])
    assert [part.event for part in parts] == [*[FrameEvent.PUBLISHED] * 3, FrameEvent.ACK]
    assert [text in part.about for text, part in zip(("key", "reply!", "\x01"), parts, strict=False)] == [True] * 3


def test_a_transaction_is_one_commit_with_all_its_statements() -> None:
    sent = [
        *LOGIN,
        *prepare(b"s1", b"INSERT INTO events VALUES (1)"),
        *simple(b"BEGIN;", b"BEGIN", b"T"),
        *execute(b"s1", b"INSERT 0 1", b"T"),
        *simple(b"COMMIT;", b"COMMIT", b"I"),
    ]
    commits = [frame for frame in frames(Postgres(), sent) if frame.event]
    assert [(commit.event, commit.about) for commit in commits] == [
        (FrameEvent.COMMIT, "BEGIN;\nINSERT INTO events VALUES (1)\nCOMMIT;")
    ]
    assert commits[0].raw == message(b"C", b"COMMIT\0") + message(b"Z", b"I")


def test_a_writing_statement_outside_a_transaction_is_a_commit() -> None:
    sent = [*LOGIN, *prepare(b"s1", INSERTS), *execute(b"s1", b"SELECT 0", b"I")]
    commits = [frame for frame in frames(Postgres(), sent) if frame.event]
    assert [commit.about for commit in commits] == [INSERTS.decode()]


def test_a_read_a_failure_or_a_rollback_is_no_commit() -> None:
    failed = message(b"E", b"SERROR\0\0") + message(b"Z", b"I")
    sent = [
        *LOGIN,
        *prepare(b"r", b"SELECT 1"),
        *execute(b"r", b"SELECT 1", b"I"),
        *prepare(b"w", INSERTS),
        (TO_SERVER, message(b"B", b"\0w\0") + message(b"E", b"\0\0\0\0\0") + SYNC),
        (TO_CLIENT, failed),
        *simple(b"BEGIN;", b"BEGIN", b"T"),
        *execute(b"w", b"SELECT 0", b"T"),
        *simple(b"ROLLBACK;", b"ROLLBACK", b"I"),
    ]
    assert events(Postgres, sent) == []


def test_an_encrypted_session_passes_unread() -> None:
    sent = [LOGIN[0], (TO_CLIENT, b"S"), (TO_SERVER, b"\x16\x03\x01 whatever"), (TO_CLIENT, b"\x16")]
    assert [frame.raw for frame in frames(Postgres(), sent)] == [data for _, data in sent]


def test_an_answer_begins_when_the_server_sends_after_the_client() -> None:
    sent = [(TO_SERVER, b"GET"), (TO_CLIENT, b"HTTP"), (TO_CLIENT, b"more"), (TO_SERVER, b"GET"), (TO_CLIENT, b"HTTP")]
    assert [frame.event for frame in frames(Http(), sent)] == [None, FrameEvent.ANSWER, None, None, FrameEvent.ANSWER]


@given(cut_at=st.integers(1, 60))
def test_splitting_the_stream_changes_no_event_and_loses_no_byte(cut_at: int) -> None:
    sessions: dict[Speaks, list[Sent]] = {
        Amqp: [(TO_SERVER, b"AMQP\0\0\x09\x01" + DELIVER), (TO_CLIENT, DELIVER + BODY + ACK + ACK), (TO_SERVER, ACK)],
        Postgres: [
            *LOGIN,
            *prepare(b"w", INSERTS),
            *execute(b"w", b"SELECT 0", b"I"),
            *simple(b"BEGIN;", b"BEGIN", b"T"),
            *simple(b"COMMIT;", b"COMMIT", b"I"),
        ],
    }
    for speaks, sent in sessions.items():
        assert events(speaks, sent, cut_at) == events(speaks, sent)
        passed = frames(speaks(), sent, cut_at)
        assert b"".join(frame.raw for frame in passed) == b"".join(data for _, data in sent)
