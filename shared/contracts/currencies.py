"""ISO 4217 alphabetic codes of currencies in use, with the number of decimals of their minor unit (list one, 2025).

A currency that is given up stays here, because messages about earlier payments name it. That no invoice is issued in it any more, the
invoice service decides (`CURRENCIES_NOT_CHARGEABLE`).
"""

_TWO = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC CUP CVE CZK "
    "DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT "
    "LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN "
    "QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS "
    "VED VES WST XCD XCG YER ZAR ZMW ZWG"
)
_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"

ISO_4217: dict[str, int] = (
    dict.fromkeys(_TWO.split(), 2) | dict.fromkeys(_ZERO.split(), 0) | dict.fromkeys(_THREE.split(), 3)
)
"""The number of decimals of the minor unit, by currency code."""


def in_major_units(amount_minor: int, currency: str) -> str:
    """An amount as people read it, never for arithmetic: `1234, "EUR"` becomes `"12.34 EUR"`. Raises KeyError for an unknown currency."""
    decimals = ISO_4217[currency]
    if decimals == 0:
        return f"{amount_minor} {currency}"
    whole, part = divmod(amount_minor, 10**decimals)
    return f"{whole}.{part:0{decimals}d} {currency}"
