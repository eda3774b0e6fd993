"""Salesforce ids: 15 case-sensitive characters, or the same with a 3-character check suffix. Never asks an org."""

import re
from typing import Final

_SUFFIX: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_FORM: Final = re.compile(r"[0-9A-Za-z]{15}(?:[A-Z0-5]{3})?")


def is_id(text: str) -> bool:
    """Whether the text has the form of an id, 15 or 18 characters."""
    return _FORM.fullmatch(text) is not None


def full_id(text: str) -> str:
    """The 18-character form, so that two ids of one record are equal; ValueError where it is not an id.

    In each group of five characters bit k says that character k is A-Z; the number picks the suffix's character.
    """
    if not is_id(text):
        raise ValueError("not a Salesforce id")
    base = text[:15]
    groups = (base[start : start + 5] for start in (0, 5, 10))
    return base + "".join(_SUFFIX[sum(1 << k for k, letter in enumerate(group) if "A" <= letter <= "Z")] for group in groups)
