"""The shapes of what is told of people: addresses, numbers of phones, cards, accounts, machines.

Each is checked as far as it can be without asking anyone (Luhn, mod 97, the lengths of a country,
areas that were never given out), so that times, versions, order numbers and sums of money stay.

Not found: names, street addresses, birthdays, numbers written out in words; a national phone number
without blanks or a word that announces it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from crewai_prod.guards._replacing import Finder, Found

_EMAIL = re.compile(
    r"(?<![\w.+%-])[\w.+%-]{1,64}"
    r"(?:@|\s{0,2}(?:\(at\)|\[at\]|\{at\}|<at>)\s{0,2})"
    r"(?:[\w-]{1,63}(?:\.|\s{0,2}(?:\(dot\)|\[dot\]|\{dot\})\s{0,2})){1,8}"
    r"(?:xn--[\w-]{2,59}|[^\W\d_]{2,24})(?![\w@-])",
    re.IGNORECASE,
)
_CARD = re.compile(r"(?<![\w.,-])(?<![+])\d(?:[ -]{0,2}\d){12,18}(?![\w-]|[.,]\d)", re.ASCII)
_CARD_STARTS = re.compile(r"4|5[1-5]|2[2-7]|3[0-9]|6")
_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2})\d{2}(?:[ -]?[A-Za-z0-9]){11,30}", re.ASCII)
_INTERNATIONAL = re.compile(
    r"(?<![\w+])(?:\+|00(?=[1-9]))[ ]?\(?\d(?:[ ().\-/\u00a0]{0,3}\d){6,14}(?![\w]|[.,]\d)",
    re.ASCII,
)
_AMERICAN = re.compile(
    r"(?<![\w.+/-])(?:1[-. ])?(?:\([2-9]\d\d\)[ ]?|[2-9]\d\d[-. ])[2-9]\d\d[-. ]\d{4}"
    r"(?![\w-]|\.\d)",
    re.ASCII,
)
_NATIONAL = re.compile(
    r"(?<![\w.,+/:-])(?:\(0[1-9]\d{0,4}\)|0[1-9]\d{0,4})[ /-]{1,3}\d{2,8}(?:[ /-]\d{2,8}){0,4}"
    r"(?![\w:/-]|[.,]\d)",
    re.ASCII,
)
_ANNOUNCED = re.compile(
    r"(?i:\b(?:tel|telephone|telefon|phone|mobile|mobil|cell|handy|fax|whatsapp|call|sms|text)\b)"
    r"[ .:#a-z]{0,20}?(?P<number>\(?\d(?:[ ().\-/]{0,2}\d){6,14})(?![\w]|[.,]\d)",
    re.ASCII | re.IGNORECASE,
)
_SSN = re.compile(r"(?<![\w-])(\d{3})-(\d{2})-(\d{4})(?![\w-])", re.ASCII)
_ANNOUNCED_SSN = re.compile(
    r"(?i:\b(?:ssn|social security)\b)\D{0,24}?(?P<number>(\d{3})[ .-]?(\d{2})[ .-]?(\d{4}))(?!\d)",
    re.ASCII,
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:\.\d{1,3}){0,3}(?![\w:])", re.ASCII)
_VERSION = re.compile(r"(?:\bv|\bversion|\brelease|section|§)\.?\s{0,2}$", re.IGNORECASE)

_BY_COUNTRY = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20
    EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30
    KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24
    PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22
    VG24 XK20
"""
_LENGTHS: Final = {one[:2]: int(one[2:]) for one in _BY_COUNTRY.split()}
"""How long the account numbers of each country are."""


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def emails(text: str) -> Iterator[Found]:
    """Addresses of mail, also with `(at)` and `[dot]`."""
    if "@" in text or "at" in text.lower():
        yield from (Found(*one.span(), "email") for one in _EMAIL.finditer(text))


def cards(text: str) -> Iterator[Found]:
    """Numbers of payment cards: 13 to 19 digits that add up."""
    for one in _CARD.finditer(text):
        digits = _digits(one[0])
        if _CARD_STARTS.match(digits) and len(set(digits)) > 1 and _luhn(digits):
            yield Found(*one.span(), "card")


def _luhn(digits: str) -> bool:
    doubled = [int(one) * 2 for one in digits[-2::-2]]
    total = sum(map(int, digits[-1::-2])) + sum(one - 9 if one > 9 else one for one in doubled)
    return total % 10 == 0


def ibans(text: str) -> Iterator[Found]:
    """Numbers of bank accounts, as long as their country has them and with the right check."""
    for one in _IBAN.finditer(text):
        length = _LENGTHS.get(one[1].upper(), 0)
        kept = [at for at in range(*one.span()) if text[at] not in " -"][:length]
        number = "".join(text[at] for at in kept).upper()
        if length and len(kept) == length and _mod97(number):
            yield Found(one.start(), kept[-1] + 1, "iban")


def _mod97(number: str) -> bool:
    return int("".join(str(int(one, 36)) for one in number[4:] + number[:4])) % 97 == 1


def phones(text: str) -> Iterator[Found]:
    """Numbers of phones: international, American, with a leading zero, or announced as such."""
    for pattern in (_INTERNATIONAL, _AMERICAN, _NATIONAL):
        for one in pattern.finditer(text):
            if pattern is not _NATIONAL or 9 <= len(_digits(one[0])) <= 13:
                yield Found(*one.span(), "phone")
    for one in _ANNOUNCED.finditer(text):
        yield Found(*one.span("number"), "phone")


def ssns(text: str) -> Iterator[Found]:
    """US social security numbers that can have been given out."""
    for pattern in (_SSN, _ANNOUNCED_SSN):
        for one in pattern.finditer(text):
            area, group, serial = one.groups()[-3:]
            if area not in ("000", "666") and area < "900" and group != "00" and serial != "0000":
                span = one.span("number") if "number" in pattern.groupindex else one.span()
                yield Found(*span, "ssn")


def ips(text: str) -> Iterator[Found]:
    """Addresses of machines, but not of this one itself, nor what is called a version."""
    for pattern in (_IPV4, _IPV6):
        for one in pattern.finditer(text):
            number = _address(one[0])
            if number is None or number.is_loopback or number.is_unspecified:
                continue
            if not _VERSION.search(text[max(0, one.start() - 12) : one.start()]):
                yield Found(*one.span(), "ip")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if "." not in text and (text.count(":") < 2 or not any(map(str.isdigit, text))):
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


FINDERS: Final[dict[str, Finder]] = {
    "email": emails,
    "card": cards,
    "iban": ibans,
    "ssn": ssns,
    "phone": phones,
    "ip": ips,
}
"""By kind; where two find something in one place, the first one names it."""
