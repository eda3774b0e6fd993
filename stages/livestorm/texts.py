"""Texts as Livestorm has them from browsers: with halves of characters in their JSON, and control characters that nobody typed. Pure."""

import re
from typing import Any, Final

import msgspec

_BOM: Final = b"\xef\xbb\xbf"
_ESCAPE: Final = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)
"""Any escape: a whole pair of surrogates, a half of one (the group), or another; a backslash that is escaped itself begins none."""
_CONTROLS: Final = dict.fromkeys((*range(0x09), *range(0x0E, 0x20), 0x7F))
"""All of ASCII's but tabs and line breaks."""


def decode(body: bytes) -> tuple[Any, bytes]:
    """Decodes JSON: the value, and the bytes that say it. Raises msgspec.DecodeError.

    JavaScript sends a text that was cut inside an emoji with half of that character, escaped: it becomes U+FFFD.
    """
    body = body.removeprefix(_BOM)
    try:
        return msgspec.json.decode(body), body
    except msgspec.DecodeError:
        whole = _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], body)
        if whole == body:
            raise
    return msgspec.json.decode(whole), whole


def clean(text: str) -> str:
    """Trimmed, and without control characters: Salesforce drops those at the ends, so that a text of nothing else is none there."""
    return text.translate(_CONTROLS).strip()
