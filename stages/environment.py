"""The environment, read once into frozen typed settings, every mistake at once. Never reads it again, never shows a secret."""

import dataclasses
import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeVar, cast, get_args

from stages.errors import UsageError

T = TypeVar("T")

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Right = Literal["look", "act"]
LogFormat = Literal["text", "json"]

_PREFIX: Final = "TURNOUT_"
_TOPIC_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_INSTANCE_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,200}")
"""What a header carries as it is (RFC 6750, b64token), and nobody guesses."""


class Secret:
    """A text that no repr, log line or traceback shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0: any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Reached from this machine alone. Of names only `localhost` is known to be that."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    def at(self, free: int) -> "Address":
        """The same; where any port will do, that one."""
        return self if self.port else Address(self.host, free)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """Whoever shows it to the console has this right; `act` includes `look`."""

    right: Right
    secret: Secret


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """All that the environment says. Fields are named like the variables, without `TURNOUT_`."""

    kafka_bootstrap: tuple[str, ...] = ("127.0.0.1:9092",)
    """`host:port` each."""
    kafka_security_protocol: SecurityProtocol = "PLAINTEXT"
    kafka_sasl_mechanism: SaslMechanism = "PLAIN"
    kafka_sasl_username: str = ""
    kafka_sasl_password: Secret | None = None
    """Read from `TURNOUT_KAFKA_SASL_PASSWORD_FILE`."""
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    instance: str | None = None
    topic_prefix: str = "turnout"
    partitions: int = 12
    replication: int = 1
    retention_hours: int = 336
    ingress: Address = Address("127.0.0.1", 8080)
    console: Address = Address("127.0.0.1", 8081)
    console_tokens: tuple[Token, ...] = ()
    """Read from `TURNOUT_CONSOLE_TOKENS_FILE`. None: the console asks for none, and listens on loopback."""
    metrics: Address = Address("127.0.0.1", 0)
    secret_keys_file: Path | None = None
    """None: the file in the user's data directory."""
    batch_wait_ms: int | None = None
    """None: the adaptive wait."""
    session_wait_seconds: int = 86_400
    log: LogFormat = "text"


_READ_FROM_FILES: Final = ("kafka_sasl_password", "console_tokens")
NAMES: Final = frozenset(
    _PREFIX + field.name.upper() + ("_FILE" if field.name in _READ_FROM_FILES else "") for field in dataclasses.fields(Environment)
)
"""Every variable that Turnout reads."""


class _Reading:
    """Collects what is set and what is wrong with it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.values: dict[str, object] = {}
        self.problems: list[str] = []

    def wrong(self, name: str, what: str) -> None:
        self.problems.append(f"{name}: {what}")

    def take(self, field: str, parse: Callable[[str], object], name: str | None = None) -> None:
        """Parses one variable, where it is set and not blank; ValueError is a problem with its own words."""
        variable = name or _PREFIX + field.upper()
        text = self._environ.get(variable, "").strip()
        if not text:
            return
        try:
            self.values[field] = parse(text)
        except ValueError as error:
            self.wrong(variable, str(error))

    def settled(self, field: str, default: T) -> T:
        return cast(T, self.values.get(field, default))


def read(environ: Mapping[str, str] | None = None) -> Environment:
    """Raises UsageError naming every mistake. Files that hold secrets are read here, key files are only looked for."""
    reading = _Reading(os.environ if environ is None else environ)
    _take_kafka(reading)
    _take_topics(reading)
    _take_addresses(reading)
    _take_tokens(reading)
    _take_rest(reading)
    _find_misspelled(reading, os.environ if environ is None else environ)
    if reading.problems:
        raise UsageError("the environment has mistakes:", reading.problems)
    return Environment(**reading.values)  # type: ignore[arg-type]  # each value was parsed for its field


def _take_kafka(reading: _Reading) -> None:
    reading.take("kafka_bootstrap", _bootstrap)
    reading.take("kafka_security_protocol", lambda text: _choice(text.upper(), get_args(SecurityProtocol)))
    reading.take("kafka_sasl_mechanism", lambda text: _choice(text.upper(), get_args(SaslMechanism)))
    reading.take("kafka_sasl_username", str)
    reading.take("kafka_sasl_password", _secret_in, _PREFIX + "KAFKA_SASL_PASSWORD_FILE")
    for field in ("kafka_ssl_cafile", "kafka_ssl_certfile", "kafka_ssl_keyfile"):
        reading.take(field, _existing_file)
    protocol = reading.settled("kafka_security_protocol", "PLAINTEXT")
    if protocol.startswith("SASL"):
        if not reading.settled("kafka_sasl_username", ""):
            reading.wrong("TURNOUT_KAFKA_SASL_USERNAME", f"is needed with security protocol {protocol}")
        if "kafka_sasl_password" not in reading.values and not _mentions(reading, "TURNOUT_KAFKA_SASL_PASSWORD_FILE"):
            reading.wrong("TURNOUT_KAFKA_SASL_PASSWORD_FILE", f"is needed with security protocol {protocol}")
    elif reading.settled("kafka_sasl_username", "") or "kafka_sasl_password" in reading.values:
        reading.wrong("TURNOUT_KAFKA_SECURITY_PROTOCOL", f"is {protocol}, which sends no user name or password: use SASL_SSL")
    if ("kafka_ssl_certfile" in reading.values) != ("kafka_ssl_keyfile" in reading.values):
        reading.wrong("TURNOUT_KAFKA_SSL_CERTFILE", "and TURNOUT_KAFKA_SSL_KEYFILE go together")


def _take_topics(reading: _Reading) -> None:
    reading.take("instance", lambda text: _matching(text, _INSTANCE_NAME))
    reading.take("topic_prefix", lambda text: _matching(text, _TOPIC_NAME))
    reading.take("partitions", lambda text: _whole(text, 1, 10_000))
    reading.take("replication", lambda text: _whole(text, 1, 100))
    reading.take("retention_hours", lambda text: _whole(text, 1, 24 * 366 * 10))


def _take_addresses(reading: _Reading) -> None:
    for field in ("ingress", "console", "metrics"):
        reading.take(field, _address)
    ingress, console = reading.settled("ingress", Address("", 8080)), reading.settled("console", Address("", 8081))
    if ingress.port == console.port != 0 and (ingress.host == console.host or "ingress" not in reading.values):
        reading.wrong("TURNOUT_CONSOLE", f"port {console.port} is the ingress's: give each its own")


def _take_tokens(reading: _Reading) -> None:
    name = "TURNOUT_CONSOLE_TOKENS_FILE"
    reading.take("console_tokens", _tokens_in, name)
    console = reading.settled("console", Environment().console)
    if not (console.loopback or "console_tokens" in reading.values or _mentions(reading, name)):
        what = f"without {name} the console answers on loopback only, and {console} is not: name a file of tokens there, or listen on"
        reading.wrong("TURNOUT_CONSOLE", f"{what} 127.0.0.1:{console.port}")


def _take_rest(reading: _Reading) -> None:
    reading.take("secret_keys_file", _existing_file)
    reading.take("batch_wait_ms", lambda text: _whole(text, 0, 60_000))
    reading.take("session_wait_seconds", lambda text: _whole(text, 1, 366 * 86_400))
    reading.take("log", lambda text: _choice(text.lower(), get_args(LogFormat)))


def _find_misspelled(reading: _Reading, environ: Mapping[str, str]) -> None:
    """Only what is very near to a name of ours: orchestrators put variables of their own with our prefix there."""
    for name in sorted(set(environ) - NAMES):
        if name.startswith(_PREFIX) and (near := difflib.get_close_matches(name, NAMES, 1, 0.9)):
            reading.wrong(name, f"is not known; did you mean {near[0]}?")


def _mentions(reading: _Reading, name: str) -> bool:
    return any(problem.startswith(name) for problem in reading.problems)


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"{text!r} is none of {', '.join(choices)}")
    return text


def _matching(text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text!r} may hold letters, digits, dots, dashes and underscores only, at most 200")
    return text


def _whole(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None
    if not least <= number <= most:
        raise ValueError(f"{number} is not between {least} and {most}")
    return number


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not host:port")
    return Address(host.removeprefix("[").removesuffix("]"), _whole(port, 0, 65_535))


def _bootstrap(text: str) -> tuple[str, ...]:
    servers = tuple(part.strip() for part in text.split(",") if part.strip())
    if not servers:
        raise ValueError("names no server")
    for server in servers:
        if _address(server).port == 0:
            raise ValueError(f"{server!r} has no port")
    return servers


def _existing_file(text: str) -> Path:
    try:
        path = Path(text).expanduser()
        is_there = path.is_file()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{text[:100]!r} can't be followed: {getattr(error, 'strerror', None) or error}") from None
    if not is_there:
        raise ValueError(f"there is no file {path}")
    return path


def _content(text: str) -> tuple[Path, str]:
    path = _existing_file(text)
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {type(error).__name__}") from None


def _secret_in(text: str) -> Secret:
    path, content = _content(text)
    secret = content.rstrip("\r\n")
    if not secret:
        raise ValueError(f"{path} is empty")
    return Secret(secret)


def _tokens_in(text: str) -> tuple[Token, ...]:
    """`look TOKEN` or `act TOKEN` a line; blank lines and those that begin with `#` say nothing. Every mistake at once, no token among them."""
    path, content = _content(text)
    tokens: dict[str, Token] = {}
    problems = []
    for number, line in enumerate(content.splitlines(), 1):
        right, *words = line.split() or ["#"]
        if right.startswith("#"):
            continue
        if right not in get_args(Right) or len(words) != 1:
            problems.append(f"line {number} is neither `look TOKEN` nor `act TOKEN`")
        elif not _TOKEN.fullmatch(words[0]):
            problems.append(f"line {number}: a token is 16 to 200 letters, digits and -._~+/=")
        elif words[0] in tokens:
            problems.append(f"line {number}: this token has a line already")
        else:
            tokens[words[0]] = Token(cast(Right, right), Secret(words[0]))
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}")
    if not tokens:
        raise ValueError(f"{path} holds no token")
    return tuple(tokens.values())
