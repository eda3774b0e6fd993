"""The secrets of the room (`password_key`, `connection_link` let one in): takes them out of what Livestorm sends. Pure; never logs."""

import re
from typing import Any, Final

SECRETS: Final = frozenset(("password_key", "connection_link"))

_MASK: Final = rb'\1"***"'
_SPOTTED: Final = re.compile(
    rb'(["\'](?:password_key|connection_link)["\']\s*[:=]\s*)(?:"(?:[^"\\]|\\.)*"?|\'(?:[^\'\\]|\\.)*\'?|[^\s,}\]"\']+)', re.DOTALL
)


def strip(body: Any) -> bool:
    """Takes the secrets out of a decoded body, in place and at any depth; whether there were any."""
    found = False
    todo = [body]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            for name in SECRETS & node.keys():
                del node[name]
                found = True
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)
    return found


def mask(body: bytes) -> bytes:
    """For a body that can't be decoded: masks what looks like one of the secrets, and leaves every other byte."""
    return _SPOTTED.sub(_MASK, body)
