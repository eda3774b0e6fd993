"""Log lines on stderr, for people or as JSON, ours and the libraries' alike. Never an address of a person."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

from stages.environment import LogFormat

_ADDRESS: Final = re.compile(r"[\w.+%'-]+@[\w-]+(?:\.[\w-]+)+")
_QUIET: Final = ("aiokafka", "aiohttp", "urllib3", "asyncio", "simple_salesforce", "zeep")

_CLIENTS_OWN: Final = frozenset(("HttpProcessingError", "RequestPayloadError", "ConnectionError"))
"""What aiohttp's server raises for what a client did. By name, since importing aiohttp takes longer than a command's help."""


def configure(form: LogFormat, *, part: str = "", level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Sets up structlog and the standard library's logging for the whole process. `part` is on every line."""
    stream = stream or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _Named(part),
        structlog.processors.format_exc_info,
        without_addresses,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether the server's line tells of a fault of ours. What clients send that is no HTTP, or break off, is for their logs."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or _CLIENTS_OWN.isdisjoint(one.__name__ for one in kind.__mro__)


class _Named:
    """Puts the part's name on every line."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if self._part:
            event.setdefault("part", self._part)
        return event


def without_addresses(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks what looks like an email address in any text of the line: a line of defence behind not logging any."""
    for name, value in event.items():
        if name != "_record":
            event[name] = _masked(value)
    return event


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return _ADDRESS.sub("<address>", value) if "@" in value else value
    if isinstance(value, dict):
        return {key: _masked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner) for inner in value]
    return value
