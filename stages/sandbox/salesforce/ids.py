"""Record ids: 3 characters that name the object, base 62 up to 15, and a suffix of 3 that spells the case. Knows no records."""

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SUFFIXES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_ALNUM = frozenset(DIGITS)
_PAIRS = [first + second for first in DIGITS for second in DIGITS]
_BITS = {ord(character): "1" if character.isupper() else "0" for character in DIGITS}


def base62(number: int, width: int) -> str:
    """`number` in base 62, padded with zeros on the left; ordered as text like the numbers are."""
    pairs = []
    for _ in range((width + 1) // 2):
        number, pair = divmod(number, 3844)
        pairs.append(_PAIRS[pair])
    text = "".join(reversed(pairs))
    if number or (len(text) > width and text[0] != "0"):
        raise ValueError(f"number does not fit into {width} characters of base 62")
    return text[-width:]


def suffix(id15: str) -> str:
    """The three characters that make 18 of 15: one per group of five, bit k set where character k is A-Z."""
    bits = id15.translate(_BITS)[::-1]
    return SUFFIXES[int(bits[10:15], 2)] + SUFFIXES[int(bits[5:10], 2)] + SUFFIXES[int(bits[0:5], 2)]


def make(prefix: str, pod: str, number: int) -> str:
    """An id of 18 characters. `pod` (3 characters) differs between orgs, so that ids of two orgs never meet."""
    id15 = prefix + pod + base62(number, 9)
    return id15 + suffix(id15)


def canonical(text: str) -> str | None:
    """The 18 characters that an id of 15 or 18 stands for, None if it is no id. Of 18, the case is read from the suffix."""
    if len(text) not in (15, 18) or not _ALNUM.issuperset(text):
        return None
    if len(text) == 15:
        return text + suffix(text)
    if suffix(text[:15]) == text[15:]:
        return text
    cased = []
    for group in range(3):
        bits = SUFFIXES.find(text[15 + group].upper())
        if bits < 0:
            return None
        for k in range(5):
            character = text[group * 5 + k]
            cased.append(character.upper() if bits >> k & 1 else character.lower())
    id15 = "".join(cased)
    repaired = id15 + text[15:].upper()
    return repaired if suffix(id15) == repaired[15:] else None
