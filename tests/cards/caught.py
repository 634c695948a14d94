"""What must be caught: each kind makes texts that hold a card number."""

import base64
import binascii
import json
import quopri
import string
import unicodedata
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from random import Random
from uuid import UUID

from tests.cards.numbers import RARE, USUAL, Range, any_number, number, printed

Kind = Callable[[Random], str]

SEPARATORS = {
    "a blank": " ",
    "two blanks": "  ",
    "three blanks": "   ",
    "a hyphen": "-",
    "a hyphen between blanks": " - ",
    "a slash": "/",
    "an underscore": "_",
    "a full stop": ".",
    "a comma": ",",
    "a comma and a blank": ", ",
    "a bar": "|",
    "a middle dot": "\u00b7",
    "a bullet": "\u2022",
    "a colon": ":",
    "two colons": "::",
    "three colons": ":::",
    "a hyphen between colons": ":-:",
    "a star": "*",
    "a tabulator": "\t",
    "a line break": "\n",
    "a line break of Windows": "\r\n",
    "a no-break space": "\u00a0",
    "a thin space": "\u2009",
    "an ideographic space": "\u3000",
    "a blank in Braille": "\u2800",
    "a non-breaking hyphen": "\u2011",
    "a dash between blanks": " \u2013 ",
    "four blanks": "    ",
    "two colons between blanks": " :: ",
    "an arrow": " --> ",
    "ten full stops": "." * 10,
    "two tabulators and a bar": " \t|\t ",
}
TAGS = {
    "a line break of HTML": "<br>",
    "the end of a line of HTML": "<br />\n",
    "elements of HTML": "</td><td>",
    "elements of HTML with attributes": '</span> <span class="n">',
}
INVISIBLE = {
    "zero-width spaces": "\u200b",
    "zero-width joiners": "\u200d",
    "left-to-right marks": "\u200e",
    "right-to-left marks": "\u200f",
    "directional isolates": "\u2068",
    "soft hyphens": "\u00ad",
    "byte order marks": "\ufeff",
    "word joiners": "\u2060",
    "variation selectors": "\ufe0f",
    "combining marks": "\u0332",
    "keycaps": "\ufe0f\u20e3",
    "tags": "\U000e0020",
    "marks of unreadable bytes": "\ue100",
    "private use": "\U000f0000",
    "no characters": "\uffff",
}
SCRIPTS = {
    "full-width": "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19",
    "Arabic-Indic": "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669",
    "Persian": "\u06f0\u06f1\u06f2\u06f3\u06f4\u06f5\u06f6\u06f7\u06f8\u06f9",
    "Devanagari": "\u0966\u0967\u0968\u0969\u096a\u096b\u096c\u096d\u096e\u096f",
    "Bengali": "\u09e6\u09e7\u09e8\u09e9\u09ea\u09eb\u09ec\u09ed\u09ee\u09ef",
    "Thai": "\u0e50\u0e51\u0e52\u0e53\u0e54\u0e55\u0e56\u0e57\u0e58\u0e59",
    "Khmer": "\u17e0\u17e1\u17e2\u17e3\u17e4\u17e5\u17e6\u17e7\u17e8\u17e9",
    "Han": "\u3007\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d",
    "bold mathematical": "".join(chr(0x1D7CE + digit) for digit in range(10)),
    "circled": "\u24ea\u2460\u2461\u2462\u2463\u2464\u2465\u2466\u2467\u2468",
    "circled Han": "0\u3280\u3281\u3282\u3283\u3284\u3285\u3286\u3287\u3288",
    "counting rods": "0" + "".join(chr(0x1D360 + digit) for digit in range(9)),
    "negative circled": "\u24ff\u2776\u2777\u2778\u2779\u277a\u277b\u277c\u277d\u277e",
    "outlined": "".join(chr(0x1CCF0 + digit) for digit in range(10)),
    "Kawi": "".join(chr(0x11F50 + digit) for digit in range(10)),
    "superscript": "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079",
    "subscript": "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089",
}
FOLLOWED = {
    "an expiry date": " 12/28",
    "an expiry date and a verification value": " 12/28 123",
    "a verification value": " 123",
    "both, between bars": "|12|2028|123",
    "both, after colons": ":1228:123",
    "the rest of a track": "=28121010000012300000?",
}
GLUED = {
    "letters before": ("card", ""),
    "letters behind": ("", "abc"),
    "letters around": ("x", "y"),
    "words around": ("Nr", "gueltig"),
    "a colon before": ("PAN:", ""),
    "hexadecimal behind": ("", "deadbeef"),
    "a letter of hexadecimal": ("", "a"),
    "a letter of hexadecimal before": ("a", ""),
    "the mark of a footnote": ("", "\u00b2"),
    "a circled mark": ("", "\u2460"),
}
WITHIN = {
    "a form": "pay+with+{}+please",
    "a form with an expiry date": "text=card+{}+exp+12%2F28",
    "a form after a full stop": "note=my+card.+{}",
    "an element of HTML": "<span>{}</span>",
    "an element of HTML with an expiry date": "<span>{} 12/28</span>",
    "a path": "/parent/{}",
    "the data of a chip, track 2": "{}D28121010000012300000F",
    "the data of a chip, tag and track 2": "5713{}D28121010000012300000F",
    "the data of a chip, after a word": "Track2 equivalent data (57): {}d28121010000012300000f",
    "an order with an expiry date": "order {} 12/28 123",
    "an order with an expiry date and its word": "REF-{} exp 12/2028",
    "an order with an expiry date between bars": "SO-2026-{}|12|2028|123",
    "an order in a form, with an expiry date": "order_number={}+12%2F28",
}
"""Where a number stands that was not seen there once."""


def _base64(text: str) -> str:
    return _base64_of(text.encode())


def _base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _hex(text: str) -> str:
    return text.encode().hex()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "base64": _base64,
    "base64, unpadded": lambda text: _base64(text).rstrip("="),
    "base64, after a byte": lambda text: _base64(f"#{text}"),
    "base64, after two bytes": lambda text: _base64(f"##{text}"),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 of a JSON": lambda text: _base64(json.dumps({"card": text})),
    "base64 of a URL": lambda text: _base64(urllib.parse.quote(f"card={text}")),
    "hexadecimal": _hex,
    "hexadecimal, capitals": lambda text: _hex(text).upper(),
    "a bytea of PostgreSQL": lambda text: f"\\x{_hex(text)}",
    "URL": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "URL, twice": lambda text: urllib.parse.quote("".join(f"%{byte:02X}" for byte in text.encode())),
    "form": lambda text: urllib.parse.quote_plus(f"card={text}"),
    "HTML, decimal": lambda text: "".join(f"&#{ord(character)};" for character in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(character):x};" for character in text),
    "HTML, bullets": lambda text: text.replace(" ", "&bull;").replace("-", "&num;"),
    "HTML, thin spaces": lambda text: text.replace(" ", "&ThinSpace;").replace("-", "&VerticalLine;"),
    "HTML, raised": lambda text: text.translate({ord(digit): f"&sup{digit};" for digit in "123"}),
    "HTML, no-break spaces": lambda text: text.replace(" ", "&nbsp;"),
    "JSON escapes": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
    "JSON escapes, escaped": lambda text: "".join(f"\\\\u{ord(character):04x}" for character in text),
    "quoted-printable": lambda text: quopri.encodestring(f"card={text}".encode()).decode(),
    "quoted-printable, all of it": lambda text: "".join(f"={byte:02X}" for byte in text.encode()),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16")).decode(),
    "base64 of UTF-32": lambda text: base64.b64encode(text.encode("utf-32-be")).decode(),
    "base64, in lines": lambda text: base64.encodebytes(f"{'.' * 50}{text}".encode()).decode(),
    "hexadecimal of UTF-16": lambda text: text.encode("utf-16-le").hex(),
    "URL, by JavaScript": lambda text: "".join(f"%u{ord(character):04X}" for character in text),
    "quoted-printable, in lines": lambda text: quopri.encodestring(f"{'.' * 70}{text}".encode()).decode(),
    "byte escapes": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "quoted-printable, all of it, small letters": lambda text: "".join(f"={byte:02x}" for byte in text.encode()),
    "escapes in braces": lambda text: "".join(f"\\u{{{ord(character):x}}}" for character in text),
    "escapes in braces, with zeros": lambda text: "".join(f"\\u{{{ord(character):06X}}}" for character in text),
    "byte escapes in braces": lambda text: "".join(f"\\x{{{byte:x}}}" for byte in text.encode()),
    "octal escapes": lambda text: "".join(f"\\{byte:03o}" for byte in text.encode()),
    "URL, by JavaScript, of escapes in braces": lambda text: "".join(f"%u{{{ord(character):x}}}" for character in text),
}
BYTE_BY_BYTE: dict[str, Callable[[str], str]] = {
    "bytes in hexadecimal, blanks": lambda text: text.encode().hex(" "),
    "bytes in hexadecimal, by hexdump": lambda text: _as_hexdump(text.encode()),
    "bytes in hexadecimal, colons": lambda text: text.encode().hex(":"),
    "bytes in hexadecimal, hyphens, capitals": lambda text: text.encode().hex("-").upper(),
    "bytes in hexadecimal, on lines": lambda text: text.encode().hex("\n"),
    "bytes in hexadecimal, as programs write them": lambda text: ", ".join(f"0x{byte:02x}" for byte in text.encode()),
    "bytes in hexadecimal, as texts": lambda text: json.dumps([f"{byte:02x}" for byte in text.encode()]),
    "bytes in decimal": lambda text: json.dumps([*text.encode()]),
    "bytes in decimal, on lines": lambda text: json.dumps([*text.encode()], indent=4),
    "bytes in decimal, without blanks": lambda text: json.dumps([*text.encode()], separators=(",", ":")),
    "a Buffer of Node": lambda text: json.dumps({"type": "Buffer", "data": [*text.encode()]}),
}
"""Of a number; of a verification value where there are bytes enough to tell it from a time of day."""

TWICE: dict[str, Callable[[str], str]] = {
    "base64 of base64": lambda text: _base64(_base64(text)),
    "hexadecimal of base64": lambda text: _hex(_base64(text)),
    "base64 of hexadecimal": lambda text: _base64(_hex(text)),
    "hexadecimal of hexadecimal": lambda text: _hex(_hex(text)),
}
"""Of numbers: of a verification value there is too little to tell it from chance."""
BESIDE: dict[str, Callable[[Random], tuple[str, str]]] = {
    "words": lambda _: ("pay with ", " please"),
    "numbers": lambda source: (f"No. {source.randrange(1_000)} ", f" {source.randrange(100)} times"),
    "ids": lambda source: (f"{UUID(int=source.getrandbits(128))} ", f" {UUID(int=source.getrandbits(128))}"),
    "lines": lambda source: (f"{_letters(source)}\n", f"\n{_letters(source)}"),
    "lines of Windows": lambda source: (f"{_letters(source)}\r\n", f"\r\n{_letters(source)}"),
    "hexadecimal": lambda source: (f"{source.getrandbits(64):x} ", f" {source.getrandbits(60):x}"),
    "slashes": lambda source: (f"{_letters(source)}/", f"/{_letters(source)}"),
}
"""What stands before an encoded number, and behind it. It must not become a part of it, whatever it is read as."""
LENGTH_MIN = 12
"""Digits of the shortest card number. As many stand in what is looked at."""


def _floating(digits: str, written: int) -> str:
    """As Java writes a large number, with so many of its digits. It leaves zeros at the end away."""
    return f"{digits[0]}.{digits[1:written]}E{len(digits) - 1}"


def _as_hexdump(data: bytes) -> str:
    """As `hexdump -C` writes it, without addresses and characters."""
    lines = (data[at : at + 16] for at in range(0, len(data), 16))
    return "\n".join(f"{line[:8].hex(' ')}  {line[8:].hex(' ')}".rstrip() for line in lines)


def _on_chip(digits: str) -> str:
    """With tag and length, as chips have it in hexadecimal: digits in pairs, F behind an odd one, and the next tag."""
    padded = digits + "F" * (len(digits) % 2)
    return f"5A{len(padded) // 2:02X}{padded}5F2403281231"


NOTATIONS: dict[str, Callable[[str], str]] = {
    "a number in floating point": lambda digits: _floating(digits, max(len(digits.rstrip("0")), LENGTH_MIN)),
    "the data of a chip": _on_chip,
    "a list of its digits": lambda digits: json.dumps([int(digit) for digit in digits]),
    "a list of its digits, on lines": lambda digits: json.dumps([int(digit) for digit in digits], indent=4),
    "a list of its digits, as texts": lambda digits: json.dumps([*digits], indent=2),
}


def _in_members(digits: str, *names: str) -> str:
    return json.dumps(dict(zip(names, printed(digits, " ").split(), strict=False)), separators=(",", ":"))


IN_PIECES: dict[str, Callable[[str], str]] = {
    "members with a count": lambda digits: _in_members(digits, "pan1", "pan2", "pan3", "pan4", "pan5"),
    "members with a letter": lambda digits: _in_members(digits, "a", "b", "c", "d", "e"),
    "members with a count, beside others": lambda digits: (
        f'{{"name":"x",{_in_members(digits, *"12345")[1:-1]},"exp":"1228"}}'
    ),
    "members with names of a card's parts": lambda digits: _in_members(digits, "bin", "x", "middle", "y", "last4"),
    "halves in two members": lambda digits: json.dumps({"card_1": digits[:8], "card_2": digits[8:]}),
    "a digit in each member": lambda digits: json.dumps({f"{at}": int(digit) for at, digit in enumerate(digits)}),
    "fields of a form": lambda digits: "&".join(f"pan[{at}]={one}" for at, one in _counted(digits)),
    "lines": lambda digits: "\n".join(f"pan_{at}: {one}" for at, one in _counted(digits)),
    "objects in a list": lambda digits: json.dumps([{"group": one} for _, one in _counted(digits)]),
    "lists in a list": lambda digits: json.dumps([[one] for _, one in _counted(digits)]),
    "two lists": lambda digits: json.dumps({"x": [digits[:4], digits[4:8]], "y": [digits[8:12], digits[12:]]}),
}


def _counted(digits: str) -> list[tuple[int, str]]:
    return [*enumerate(printed(digits, " ").split(), 1)]


CODES = (
    "CARDNO",
    "CARD-NO",
    "CARDNUM",
    "CCNO",
    "CC-NUM",
    "CNO",
    "PAN_NO",
    "BIN",
    "MASTER",
    "ACC-NUMERO",
    "KARTE",
    "VISA",
    "AMEX",
    "NO",
    "CARD-REF",
    "CREDITCARD",
    "KAART",
    "KARTA",
    "KORT",
    "CCN",
    "ID",
    "NO-ID",
    "MYPAN",
    "FPAN",
    "PAYMENT",
    "PAY-NO",
)
"""Before a card number, with a hyphen: they look like the code of an order, and are none."""


NAMES_OF_LANGUAGES = (
    *("g\u00fcvenlikKodu", "g\u00fcvenlik numaras\u0131", "turvakoodi", "turvaluku", "turvakood", "drošības kods"),
    *("saugos kodas", "bezpečnostní kód", "bezpečnostný kód", "biztonsági kód", "cod de securitate", "sigurnosni kod"),
    *("codi de seguretat", "cryptogrammeVisuel", "codice di controllo", "Kartenkontrollnummer", "kode_keamanan"),
    *("mã bảo mật", "kod keselamatan", "código de segurança", "Prüfziffer", "Sicherheitscode", "varnostna koda"),
    *("код безопасности", "Код_безопасности", "КОД БЕЗОПАСНОСТИ", "защитный код", "проверочный код", "код безпеки"),
    *("код за сигурност", "сигурносни код", "безбедносни код", "κωδικός ασφαλείας", "ΚΩΔΙΚΟΣ ΑΣΦΑΛΕΙΑΣ", "קוד אבטחה"),
    *("رمز الأمان", "رمز الحماية", "رمز التحقق", "کد امنیتی", "सुरक्षा कोड", "รหัสความปลอดภัย", "安全码", "安全碼"),
    *("卡验证码", "保安碼", "セキュリティコード", "セキュリティ・コード", "보안코드", "보안 코드"),
)
"""What people call it on the forms of shops."""


def _said_as(name: str, value: str) -> str:
    return f"{name}: {value}"


def _as_member(name: str, form: str, value: str) -> str:
    return json.dumps({name: form.format(value)})


VERIFICATION_VALUES: dict[str, Callable[[str], str]] = {
    "a setting": lambda value: f"cvv={value}",
    "a sentence": lambda value: f"the CVC is {value}",
    "after a colon": lambda value: f"CVV2: {value}",
    "a member": lambda value: f'{{"cvv":"{value}"}}',
    "a member, a number": lambda value: f'{{"cardCode":{int(value)}}}',
    "a member, a list": lambda value: json.dumps({"csc": list(value)}),
    "name and value": lambda value: json.dumps({"name": "cvd", "value": value}),
    "value and name": lambda value: json.dumps({"value": value, "name": "cvv"}),
    "an object": lambda value: json.dumps({"payment_cvv": {"kind": "text", "value": value}}),
    "an element of XML": lambda value: f"<cv2>{value}</cv2>",
    "full-width": lambda value: f"cvv: {value}".translate({ord(" ") + at: 0xFF00 + at for at in range(1, 95)}),
    "spelt out": lambda value: f"security code: {value}",
    "a name with a number": lambda value: f'{{"cvc_2":"{value}"}}',
    "a name in Spanish": lambda value: f'{{"codigoSeguridad":"{value}"}}',
    "a name in French": lambda value: f'{{"code_securite":"{value}"}}',
    "a name in Swedish": lambda value: f"s\u00e4kerhetskod: {value}",
    "value and a longer name": lambda value: json.dumps({"content": value, "field": "card_cvc"}),
    "an object in an object": lambda value: json.dumps({"cvv": {"value": {"text": value}}}),
    "behind it in brackets": lambda value: f"{value} (CVV)",
    "behind it in a sentence": lambda value: f"{value} is the cvc",
    "in a form": lambda value: f"the+security+code+is+{value}",
    "in a form, in French": lambda value: f"code+de+securite+{value}",
    "key and value in short": lambda value: json.dumps({"k": "cvv", "v": value}),
    "value and key in short": lambda value: json.dumps({"v": value, "k": "cvv"}),
    "a typed value": lambda value: json.dumps({"name": "cvv", "stringValue": value}),
    "a value behind an object": lambda value: json.dumps({"name": "cvv", "meta": {"a": 1}, "value": int(value)}),
    "any member of an object": lambda value: json.dumps({"cvv": {"raw": value}}),
    "an element with attributes": lambda value: f'<cvv type="x">{value}</cvv>',
    "a property list": lambda value: f"<key>cvv</key><string>{value}</string>",
    "a row of a table": lambda value: f"<tr><td>CVC</td><td>{value}</td></tr>",
    "escaped XML": lambda value: f"&lt;cvv&gt;{value}&lt;/cvv&gt;",
    "a PIN, a list": lambda value: json.dumps({"pin": list(f"{value}0")}),
    "a PIN, value and name": lambda value: json.dumps({"value": f"{value}0", "name": "card_pin"}),
    "a PIN": lambda value: f'{{"pin":"{value}0"}}'[:15],
    "a PIN of six digits": lambda value: f'{{"card_pin":"{value}{value}"}}',
    "a PIN of a word": lambda value: f"PIN number: {value}0",
    "a PIN block": lambda value: f'{{"pinBlock":"0412345678901{value}"}}',
    "an encrypted PIN block": lambda value: f'{{"pin_block":"{value}4AB12CDEF0012"}}',
    "a PIN block in base64": lambda value: json.dumps({"pinBlock": _base64_of(bytes.fromhex(f"{value}0abcdef123456"))}),
    **{
        f"a PIN, {name}": partial(_as_member, name, "{}0")
        for name in ("pinNumber", "PIN_NUMBER", "pinValue", "pinData", "newPin", "userPin", "atm-pin")
    },
    **{
        f"a track, {name}": partial(_as_member, name, ";5018{}=2812101")
        for name in ("track", "tracks", "track2", "track3", "track2_equivalent", "track2EquivalentData", "trackData")
    },
    **{
        f"in {name}": partial(_as_member, name, "{}")
        for name in (
            *("cc_cid", "payment[cc_cid]", "cardCid", "CardSecVal", "cardValidationNum", "cvNumber", "card_cvNumber"),
            *("card_validation_code", "pruefnummer", "pruefziffer", "kartenpruefnummer", "cvvCode2", "cvvEntered"),
            *("cvvNew", "cvv_plain", "cardCvx", "ssl_cvv2cvc2", "securityCd", "veiligheidscode", "ccvv", "cvn2"),
            *("cvmvalue", "cvm", "ewayCVN", "threeCSC", "secCode", "sec_code", "secureCode", "securityNo", "cvv[0]"),
            *("card_check_digits", "cardCheckCode", "signature_panel_code", "three_digit_code", "3-digit code", "cvx2"),
        )
    },
    "an aside behind the name": lambda value: f"CVV (3 digits): {value}",
    "an aside and no sign": lambda value: f"cvc (on the back) {value}",
    "an aside behind two names": lambda value: f"CVV/CVC (3-4 digits): {value}",
    "digits on the back": lambda value: f"the three digits on the back: {value}",
    "an equation": lambda value: f"{value} = CVV",
    "a wish": lambda value: f"my cvv number would be {value}",
    **{f"in a language, {name}": partial(_said_as, name) for name in NAMES_OF_LANGUAGES},
    **{f"a member in a language, {name}": partial(_as_member, name, "{}") for name in NAMES_OF_LANGUAGES},
}


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOT_FOUND: dict[str, Callable[[str], str]] = {
    "over several texts": lambda digits: json.dumps({"a": digits[:7], "b": digits[7:]}),
    "over members of different names": lambda digits: json.dumps(
        dict(zip(("one", "two", "three", "four", "five"), printed(digits, " ").split(), strict=False))
    ),
    "over members with others between": lambda digits: ", ".join(
        f'"a{at}": {one}, "x": "-"' for at, one in _counted(digits)
    ),
    "put together by a program": lambda digits: '" + "'.join((digits[:7], digits[7:])),
    "commas between all digits": ",".join,
    "slashes between pairs": lambda digits: "/".join(_in_pieces(digits, 2)),
    "underscores between all digits": "_".join,
    "bars between all digits": "|".join,
    "line breaks between all digits": "\n".join,
    "two blanks between all digits": "  ".join,
    "other signs between any two groups": lambda digits: "{} :: {} -- {} == {}{}".format(*_four(digits)),
    "thirteen signs between groups": lambda digits: printed(digits, "." * 13),
    "other digits before it": lambda digits: f"0000{digits}",
    "behind a code": lambda digits: f"REF#{digits}",
    "behind a word for orders": lambda digits: f"order {digits}",
    "floating point, of a number with many zeros": lambda digits: _floating(digits, LENGTH_MIN - 1),
    "base64 with blanks": lambda digits: " ".join(_in_pieces(_base64(digits), 4)),
    "hexadecimal with blanks": lambda digits: " ".join(_in_pieces(_hex(digits), 4)),
    "circled numbers of two digits": lambda digits: "".join(map(_circled, _in_pieces(digits, 2))),
    "words": lambda digits: " ".join(WORDS[int(digit)] for digit in digits),
    "bytes in binary": lambda digits: " ".join(f"{byte:08b}" for byte in digits.encode()),
    "bytes in octal": lambda digits: " ".join(f"0{byte:o}" for byte in digits.encode()),
    "the number in hexadecimal": lambda digits: f"{int(digits):#x}",
    "names of characters": lambda digits: "".join(f"\\N{{DIGIT {WORDS[int(digit)].upper()}}}" for digit in digits),
    "numbers of characters": lambda digits: " ".join(f"U+{ord(digit):04X}" for digit in digits),
    "a function of SQL": lambda digits: "||".join(f"chr({ord(digit)})" for digit in digits),
    "escapes of CSS": lambda digits: "".join(f"\\{ord(digit):x} " for digit in digits),
    "base32": lambda digits: base64.b32encode(digits.encode()).decode(),
    "base85": lambda digits: base64.b85encode(digits.encode()).decode(),
    "uuencode": lambda digits: binascii.b2a_uu(digits.encode()).decode(),
    "ROT5": lambda digits: digits.translate(str.maketrans("0123456789", "5678901234")),
    "backwards": lambda digits: digits[::-1],
    "compressed": lambda digits: _base64_of(zlib.compress(digits.encode())),
    "base64, three times": lambda digits: _base64(_base64(_base64(digits))),
}
"""What the look does not go behind, as shared/contracts/README.md tells senders. Of every kind a few are found by chance."""


def _four(digits: str) -> list[str]:
    return [digits[at : at + 4] for at in range(0, 16, 4)] + [digits[16:]]


def _circled(pair: str) -> str:
    """In a circle, as far as there are some: from 10 to 50."""
    number = int(pair)
    first, start = next(
        ((first, start) for first, start in ((0x32B1, 36), (0x3251, 21), (0x2469, 10)) if number >= start), (0, 0)
    )
    return chr(first + number - start) if start and number <= 50 else pair


def _in_pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def kinds() -> dict[str, Kind]:
    """Name and maker of each kind."""
    return {**numbers(), **dict(_verification_values())}


def numbers() -> dict[str, Kind]:
    """Of the kinds those with a card number."""
    return dict([*_of_brands(), *_with_signs_between(), *_in_company(), *_encoded(), *_written_out()])


def _of_brands() -> Iterator[tuple[str, Kind]]:
    for brand in dict.fromkeys(one.brand for one in USUAL):
        ranges = tuple(one for one in USUAL if one.brand == brand)
        yield f"{brand}: bare", partial(_bare, ranges)
        yield f"{brand}: printed", partial(_as_printed, ranges)
    for one in RARE:
        yield f"{one.brand}: printed", partial(_as_printed, (one,))
        yield f"{one.brand}: after a word", partial(_after_a_word, one)


def _with_signs_between() -> Iterator[tuple[str, Kind]]:
    for name, separator in (SEPARATORS | TAGS).items():
        yield f"between groups {name}", partial(_grouped, separator)
    for name, blank in (("blank", " "), ("blank in Braille", "\u2800")):
        yield f"between all digits a {name}", partial(_spread, blank, "")
    for name, mark in INVISIBLE.items():
        yield f"between digits {name}", partial(_spread, mark, mark)
        yield f"between groups {name} and a blank", partial(_grouped, f"{mark} {mark}")
    for name, digits in SCRIPTS.items():
        yield f"{name} digits", partial(_in_script, digits)
    yield "digits of all scripts in turns", _in_scripts


def _in_company() -> Iterator[tuple[str, Kind]]:
    for name, company in BESIDE.items():
        yield f"any encoding beside {name}", partial(_beside, company)
    for name, behind in FOLLOWED.items():
        yield f"bare, then {name}", partial(_around, "", "", behind)
        yield f"printed, then {name}", partial(_around, " ", "", behind)
    for name, (before, behind) in GLUED.items():
        yield f"glued to {name}", partial(_around, "", before, behind)
    for name, text in WITHIN.items():
        yield f"in {name}", partial(_within, text)
    for code in CODES:
        yield f"behind {code}-", partial(_around, "", f"{code}-", "")


def _encoded() -> Iterator[tuple[str, Kind]]:
    for name, encode in ENCODINGS.items():
        for form, separator in (("bare", ""), ("blanks", " "), ("hyphens", "-")):
            if separator == " " or "no-break" not in name:
                yield f"{name}: {form}", partial(_behind, encode, separator)

    for name, encode in BYTE_BY_BYTE.items():
        for form, separator in (("bare", ""), ("blanks", " "), ("hyphens", "-")):
            yield f"{name}: {form}", partial(_behind, encode, separator)
    for name, encode in TWICE.items():
        yield name, partial(_behind, encode, " ")


def _written_out() -> Iterator[tuple[str, Kind]]:
    for name, write in NOTATIONS.items():
        yield name, partial(_in_notation, write)
    for name, write in IN_PIECES.items():
        yield f"in pieces, {name}", partial(_in_notation, write)


def _verification_values() -> Iterator[tuple[str, Kind]]:
    for name, write in VERIFICATION_VALUES.items():
        yield f"verification value, {name}", partial(_verification_value, write, str)
    for name, encode in ENCODINGS.items():
        if "no-break" not in name:
            yield f"verification value, {name}", partial(_verification_value, VERIFICATION_VALUES["a setting"], encode)
            yield (
                f"verification value in JSON, {name}",
                partial(_verification_value, VERIFICATION_VALUES["a member"], encode),
            )
    for name, encode in BYTE_BY_BYTE.items():
        if "decimal" not in name and "Node" not in name:  # letters have three digits there
            yield (
                f"verification value in JSON, {name}",
                partial(_verification_value, VERIFICATION_VALUES["a member"], encode),
            )


def _plain(written: str) -> str:
    return f"pay with {written} please"


def _bare(ranges: tuple[Range, ...], source: Random) -> str:
    return _plain(number(source, source.choice(ranges)))


def _as_printed(ranges: tuple[Range, ...], source: Random) -> str:
    one = source.choice(ranges)
    return _plain(printed(number(source, one), source.choice((" ", "-")), one.groups))


def _after_a_word(one: Range, source: Random) -> str:
    return (
        f"my {source.choice(('card', 'Visa', 'credit card no.', 'Kreditkarte', 'PAN:'))} {number(source, one)} please"
    )


def _grouped(separator: str, source: Random) -> str:
    return _plain(printed(any_number(source), separator))


def _spread(separator: str, behind: str, source: Random) -> str:
    return _plain(separator.join(any_number(source)) + behind)


def _in_script(digits: str, source: Random) -> str:
    return _plain(any_number(source).translate({ord("0") + at: digit for at, digit in enumerate(digits)}))


@cache
def _digits_of_all_scripts() -> dict[int, list[str]]:
    scripts: dict[int, list[str]] = {digit: [] for digit in range(10)}
    for one in map(chr, range(0x20000)):
        if (digit := unicodedata.digit(one, None)) is not None:
            scripts[digit].append(one)
    return scripts


def _in_scripts(source: Random) -> str:
    return _plain("".join(source.choice(_digits_of_all_scripts()[int(digit)]) for digit in any_number(source)))


def _verification_value(write: Callable[[str], str], encode: Callable[[str], str], source: Random) -> str:
    return _plain(encode(write(str(source.randrange(100, 1_000)))))


def _around(separator: str, before: str, behind: str, source: Random) -> str:
    return _plain(before + printed(any_number(source), separator) + behind)


def _within(text: str, source: Random) -> str:
    return text.format(any_number(source))


def _in_notation(write: Callable[[str], str], source: Random) -> str:
    return _plain(write(any_number(source)))


def _beside(company: Callable[[Random], tuple[str, str]], source: Random) -> str:
    encode = source.choice([*ENCODINGS.values(), *TWICE.values()])
    before, behind = company(source)
    return f"{before}{encode(printed(any_number(source), ' '))}{behind}"


def _letters(source: Random) -> str:
    return "".join(source.choices(string.ascii_letters + string.digits, k=source.randrange(4, 20)))


def _behind(encode: Callable[[str], str], separator: str, source: Random) -> str:
    return _plain(encode(printed(any_number(source), separator)))
