"""The rows of a payment, as users of SQLAlchemy declare them: the same data as Remit's, under the same names.

FastStream has three databases, as Remit has. DBOS has one: its workflow tables replace inbox, outbox, sagas and deadlines.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Identity, MetaData, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column


class Base(MappedAsDataclass, DeclarativeBase):
    """The base of all tables; `for_service` selects those of a service."""

    type_annotation_map = {dict[str, Any]: JSONB, datetime: DateTime(timezone=True), int: BigInteger}  # noqa: RUF012 - SQLAlchemy's


class PeerInbox(Base):
    __tablename__ = "inbox"
    message_id: Mapped[UUID] = mapped_column(primary_key=True)
    handled_at: Mapped[datetime] = mapped_column(server_default=func.now(), init=False)


class Outbox(Base):
    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(Identity(), primary_key=True, init=False)
    message_id: Mapped[UUID]
    exchange: Mapped[str]
    type: Mapped[str]
    body: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), init=False)


# -- invoice ---------------------------------------------------------------------------------------------------------------------------


class PeerEvent(Base):
    __tablename__ = "events"
    stream_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    cause_id: Mapped[UUID]
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now(), init=False)


class PeerInvoice(Base):
    __tablename__ = "invoices"
    invoice_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    version: Mapped[int]
    amount_minor: Mapped[int]
    currency: Mapped[str]
    payment_id: Mapped[UUID | None] = mapped_column(default=None)
    receipt_number: Mapped[str | None] = mapped_column(default=None)


class PaymentId(Base):
    """A payment id, unique over all invoices."""

    __tablename__ = "payment_ids"
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    invoice_id: Mapped[str]
    pending: Mapped[bool]


class PeerAnswer(Base):
    __tablename__ = "answers"
    command_id: Mapped[UUID] = mapped_column(primary_key=True)
    invoice_id: Mapped[str] = mapped_column(index=True)
    answer: Mapped[str]
    reason: Mapped[str | None] = mapped_column(default=None)


# -- payment gateway -------------------------------------------------------------------------------------------------------------------


class PeerPayment(Base):
    __tablename__ = "payments"
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    invoice_id: Mapped[str]
    amount_minor: Mapped[int]
    currency: Mapped[str]
    method_token: Mapped[str]
    status: Mapped[str]
    version: Mapped[int]
    gateway_id: Mapped[str | None] = mapped_column(default=None)
    receipt_number: Mapped[str | None] = mapped_column(default=None)


class PeerAttempt(Base):
    __tablename__ = "attempts"
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[str]
    answer: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now(), init=False)


class PeerOutcome(Base):
    """An outcome of a payment as it was announced, kept to be published again with the same bytes."""

    __tablename__ = "outcomes"
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[bytes]


# -- saga ------------------------------------------------------------------------------------------------------------------------------


class PeerSaga(Base):
    __tablename__ = "sagas"
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    invoice_id: Mapped[str]
    status: Mapped[str]
    version: Mapped[int]
    receipt_number: Mapped[str | None] = mapped_column(default=None)


class PeerTransition(Base):
    __tablename__ = "transitions"
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    to_status: Mapped[str]
    cause_id: Mapped[UUID]
    at: Mapped[datetime] = mapped_column(server_default=func.now(), init=False)


class Deadline(Base):
    __tablename__ = "deadlines"
    payment_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(index=True)


_TABLES = {
    "invoice": (PeerInbox, Outbox, PeerEvent, PeerInvoice, PaymentId, PeerAnswer),
    "payment_gateway": (PeerInbox, Outbox, PeerPayment, PeerAttempt, PeerOutcome),
    "saga": (PeerInbox, Outbox, PeerSaga, PeerTransition, Deadline),
    "all": (PeerEvent, PeerInvoice, PaymentId, PeerAnswer, PeerPayment, PeerAttempt),
}


def create(connection: Any, service: str) -> None:
    """Create a service's tables."""
    metadata: MetaData = Base.metadata
    metadata.create_all(connection, tables=[metadata.tables[table.__tablename__] for table in _TABLES[service]])
