"""Names of card verification values in scripts other than Latin, as the forms of shops have them."""

import re
from collections.abc import Iterator
from typing import Final

_SPACE: Final = r"[\s_-]{0,2}"
_NAMES: Final = {
    beginning: re.compile(beginning + rest.replace(" ", _SPACE))
    for beginning, rest in (
        (
            "код",
            r" (?:безопас\w{1,8}|безпеки|бяспекі|проверки|за сигурност)",
        ),  # Russian, Ukrainian, Belarusian, Bulgarian
        ("защитн", r"ый код"),
        ("провероч", r"ный код"),
        ("сигурносни", r" код"),  # Serbian, Macedonian
        ("безбедносн", r"[аи]? код"),
        ("κωδικ", r"[οό][ςσ] ασφ[αά]λε[ιί]ας"),
        ("קוד", r" ה?אבטחה"),
        ("رمز", r" (?:الأمان|الامان|الحماية|التحقق|امنیتی)"),  # Arabic, Persian
        ("کد", r" امنیتی"),
        ("सुरक्षा", r" कोड"),
        ("รหัส", r"(?:รักษา)?ความปลอดภัย"),
        ("安全", r"(?:[码碼]|コード)"),
        ("卡", r"片?(?:验证码|驗證碼|校验码)"),
        ("保安", r"[码碼]"),
        ("セキュリティ", r"[・ ]?(?:コード|番号)"),
        ("보안", r" (?:코드|번호)"),
    )
}
"""In lower case, by how they begin: one search for these tells that there is none."""


def names(text: str) -> Iterator[tuple[int, int]]:
    """Where such names stand in this text, as (start, end) in characters. Each has three or more."""
    lowered = text.lower()
    if len(lowered) != len(text):  # of a capital of Turkish: two characters
        lowered = text
    for beginning, name in _NAMES.items():
        if beginning in lowered:
            yield from (found.span() for found in name.finditer(lowered))
