"""`remit card`: encrypt a card as a sender does, and make the keys for it.

A card number is read from a prompt or from stdin, never from the command line: arguments show in process lists and shell histories.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from deploy.cli.output import MISUSED, Json, fail, write_json, write_line

if TYPE_CHECKING:
    from shared.card_data.encryption import CardDetails, CardKeyring

PUBLIC_KEYS = "CARD_PUBLIC_KEYS_FILE"
_LINE = re.compile(r"\s*([0-9 -]+?)\s+([0-9]{1,2})\s*/\s*([0-9]{4})\s*")

app = typer.Typer(no_args_is_help=True, help="Encrypt a card for the payment gateway service.")

KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", envvar=PUBLIC_KEYS, help="The public JWK set that the service published.", show_default=False
    ),
]


@app.command("encrypt")
def encrypt(
    payment_id: Annotated[UUID, typer.Option(help="The one payment that the card is for.", show_default=False)],
    *,
    name: Annotated[
        str | None, typer.Option(help="The card holder's name, for address verification.", show_default=False)
    ] = None,
    postal_code: Annotated[
        str | None, typer.Option(help="The card holder's postal code, for address verification.", show_default=False)
    ] = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Read a card (asked for, or `NUMBER MM/YYYY` on stdin) and write it as the JWE that `PayInvoice` takes."""
    jwe = encrypt_card_from_stdin(payment_id, key_file, name=name, postal_code=postal_code)
    if json:
        write_json({"payment_id": str(payment_id), "method": {"kind": "encrypted_card", "jwe": jwe}})
    else:
        write_line(jwe)


@app.command("keys")
def keys(
    private: Annotated[
        Path, typer.Option(help="Where the private set goes (mode 0600): CARD_KEYS_FILE of the service.")
    ],
    public: Annotated[Path, typer.Option(help=f"Where the public set goes, for senders: {PUBLIC_KEYS}.")],
    *,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="A private set whose keys stay valid, to rotate them: both new sets hold them, too.",
            show_default=False,
        ),
    ] = None,
    kid: Annotated[
        str | None, typer.Option(help="Name of the key. Default: its thumbprint.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Make a key pair. Files that exist are left alone. The newest key is the last one of its set: senders take that one."""
    from shared.card_data.encryption import generate_keyset  # noqa: PLC0415 - loads the cryptography

    public_set, private_set = generate_keyset(kid)
    if keep is not None:
        kept = _read_private(keep)
        if kid in {key["kid"] for key in kept.public_jwks()["keys"]}:
            fail(f"{keep} has a key {kid} already: choose another name.", MISUSED)
        public_set["keys"][:0] = kept.public_jwks()["keys"]
        private_set["keys"][:0] = kept.private_jwks()["keys"]
    _write_new(private, private_set, mode=0o600)
    _write_new(public, public_set, mode=0o644)
    name = public_set["keys"][-1]["kid"]
    if json:
        write_json({"kid": name, "private": str(private), "public": str(public)})
    else:
        write_line(f"key {name}: private in {private}, public in {public}")


@app.command("public")
def public(
    private: Annotated[Path, typer.Option(help="The private set: CARD_KEYS_FILE of the service.", show_default=False)],
) -> None:
    """Write the public set of a private one, to be published to senders: a JWK set (RFC 7517), newest key last."""
    write_json(_read_private(private).public_jwks())


def _read_private(path: Path) -> "CardKeyring":
    from services.payment_gateway.settings import read_card_keys  # noqa: PLC0415 - loads the cryptography

    try:
        return read_card_keys(path)
    except ValueError as error:
        fail(f"{path} {error}.", MISUSED)


def encrypt_card_from_stdin(
    payment_id: UUID, key_file: Path | None, *, name: str | None = None, postal_code: str | None = None
) -> str:
    """Read a card from the prompt or stdin, and encrypt it for this payment with the newest (last) key of the set."""
    from shared.card_data.encryption import encrypt_card  # noqa: PLC0415 - as above

    key = _newest_key(key_file)
    card = _read_card()
    try:
        card = replace(card, name=name, postal_code=postal_code)
    except ValueError:
        fail("--name and --postal-code have at most 100 characters, in one line.", MISUSED)
    try:
        return encrypt_card(card, payment_id=payment_id, public_key_jwk=key)
    except ValueError as error:
        fail(f"{PUBLIC_KEYS}: {error}.", MISUSED)


def _newest_key(key_file: Path | None) -> Mapping[str, Any]:
    import orjson  # noqa: PLC0415

    if key_file is None:
        fail(f"{PUBLIC_KEYS} is not set: it must name the file with the public keys (or give --key-file).", MISUSED)
    try:
        jwks = orjson.loads(key_file.read_bytes())
    except OSError as error:
        fail(f"{PUBLIC_KEYS}: {key_file} cannot be read: {error.strerror}.", MISUSED)
    except orjson.JSONDecodeError:
        fail(f"{PUBLIC_KEYS}: {key_file} is not JSON.", MISUSED)
    keys_ = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys_, list) or not keys_ or not isinstance(keys_[-1], dict):
        fail(f"{PUBLIC_KEYS}: {key_file} is not a JWK set with a key in it.", MISUSED)
    newest: dict[str, Any] = keys_[-1]
    return newest


def _read_card() -> "CardDetails":
    from shared.card_data.encryption import CardRefusal, read_card  # noqa: PLC0415 - as above

    line = _ask_for_card() if sys.stdin.isatty() else sys.stdin.readline()
    found = _LINE.fullmatch(line)
    if found is None:
        fail("a card is expected as NUMBER MM/YYYY.", MISUSED)  # the text that was read is never shown
    card = read_card(found[1], int(found[2]), int(found[3]))
    if isinstance(card, CardRefusal):
        fail(f"the card is refused: {card.value}.", MISUSED)
    return card


def _ask_for_card() -> str:
    number = typer.prompt("Card number", hide_input=True, err=True)
    return f"{number} {typer.prompt('Expires (MM/YYYY)', err=True)}"


def _write_new(path: Path, content: dict[str, Any], *, mode: int) -> None:
    """Write a new file that has its final mode from the start, so that a private key is never readable by others."""
    import orjson  # noqa: PLC0415

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        fail(f"{path} exists: it may hold a key that is in use.", MISUSED)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.", MISUSED)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")
