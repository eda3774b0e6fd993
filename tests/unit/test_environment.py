"""The environment is read once, whole, and with every mistake at once."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages import environment
from stages.environment import Address, Environment, Secret, Token
from stages.errors import UsageError


def test_nothing_set_gives_the_documented_defaults() -> None:
    settings = environment.read({})
    assert settings == Environment()
    assert (settings.topic_prefix, settings.partitions, settings.replication, settings.retention_hours) == ("turnout", 12, 1, 336)
    assert (str(settings.ingress), str(settings.console), settings.metrics.port) == ("127.0.0.1:8080", "127.0.0.1:8081", 0)
    assert (settings.session_wait_seconds, settings.batch_wait_ms, settings.log) == (86_400, None, "text")


def test_what_is_set_is_taken(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    settings = environment.read(
        {
            "TURNOUT_KAFKA_BOOTSTRAP": "a:9092, b:9093",
            "TURNOUT_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
            "TURNOUT_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "TURNOUT_KAFKA_SASL_USERNAME": "turnout",
            "TURNOUT_KAFKA_SASL_PASSWORD_FILE": str(password),
            "TURNOUT_INGRESS": "[::1]:0",
            "TURNOUT_BATCH_WAIT_MS": "0",
            "TURNOUT_LOG": "JSON",
            "TURNOUT_INSTANCE": "",
            "HOME": "/nowhere",
        }
    )
    assert settings.kafka_bootstrap == ("a:9092", "b:9093")
    assert settings.kafka_sasl_password == Secret("hunter2")
    assert settings.ingress == Address("::1", 0)
    assert (settings.batch_wait_ms, settings.log, settings.instance) == (0, "json", None)


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2")
    settings = environment.read(
        {
            "TURNOUT_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "TURNOUT_KAFKA_SASL_USERNAME": "turnout",
            "TURNOUT_KAFKA_SASL_PASSWORD_FILE": str(password),
        }
    )
    assert settings.kafka_sasl_password is not None
    assert settings.kafka_sasl_password.reveal() == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings) + f"{settings.kafka_sasl_password}"


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        environment.read(
            {
                "TURNOUT_KAFKA_BOOTSTRAP": "nowhere",
                "TURNOUT_PARTITIONS": "0",
                "TURNOUT_REPLICATION": "three",
                "TURNOUT_INGRESS": "127.0.0.1:99999",
                "TURNOUT_LOG": "xml",
                "TURNOUT_TOPIC_PREFIX": "a b",
                "TURNOUT_SECRET_KEYS_FILE": "/there/is/none",
            }
        )
    named = {problem.split(":")[0] for problem in caught.value.problems}
    assert named == {
        "TURNOUT_KAFKA_BOOTSTRAP",
        "TURNOUT_PARTITIONS",
        "TURNOUT_REPLICATION",
        "TURNOUT_INGRESS",
        "TURNOUT_LOG",
        "TURNOUT_TOPIC_PREFIX",
        "TURNOUT_SECRET_KEYS_FILE",
    }
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TURNOUT_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, {"TURNOUT_KAFKA_SASL_USERNAME", "TURNOUT_KAFKA_SASL_PASSWORD_FILE"}),
        ({"TURNOUT_KAFKA_SASL_USERNAME": "someone"}, {"TURNOUT_KAFKA_SECURITY_PROTOCOL"}),
        ({"TURNOUT_INGRESS": "127.0.0.1:9", "TURNOUT_CONSOLE": "127.0.0.1:9"}, {"TURNOUT_CONSOLE"}),
        ({"TURNOUT_CONSOLE": "127.0.0.1:8080"}, {"TURNOUT_CONSOLE"}),
    ],
)
def test_settings_that_contradict_each_other_are_mistakes(environ: dict[str, str], named: set[str]) -> None:
    with pytest.raises(UsageError) as caught:
        environment.read(environ)
    assert {problem.split(":")[0] for problem in caught.value.problems} == named


def test_a_misspelled_variable_is_a_mistake_and_a_foreign_one_is_not() -> None:
    with pytest.raises(UsageError, match="TURNOUT_PARTITION: is not known; did you mean TURNOUT_PARTITIONS"):
        environment.read({"TURNOUT_PARTITION": "3"})
    environment.read({"TURNOUT_SERVICE_HOST": "10.0.0.1", "TURNOUT_INGRESS_PORT": "tcp://10.0.0.1:80", "TURNOUT_TEST_BROKER": "apache"})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "::1", "localhost", "LocalHost"])
def test_on_loopback_the_console_needs_no_tokens(host: str) -> None:
    assert environment.read({"TURNOUT_CONSOLE": f"{host}:0"}).console_tokens == ()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "::", "10.0.0.1", "[fe80::1%eth0]", "console.example", "localhost.example", "127.1", "0"]
)
def test_off_loopback_the_console_does_not_start_without_tokens(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        environment.read({"TURNOUT_CONSOLE": f"{host}:8081", "TURNOUT_CONSOLE_TOKENS_FILE": " ", "TURNOUT_PARTITIONS": "0"})
    told, other = sorted(caught.value.problems)
    assert told.startswith("TURNOUT_CONSOLE: without TURNOUT_CONSOLE_TOKENS_FILE the console answers on loopback only")
    assert told.endswith("name a file of tokens there, or listen on 127.0.0.1:8081")
    assert other.startswith("TURNOUT_PARTITIONS")
    tokens = tmp_path / "tokens"
    tokens.write_text("look 0123456789abcdef")
    assert environment.read({"TURNOUT_CONSOLE": f"{host}:8081", "TURNOUT_CONSOLE_TOKENS_FILE": str(tokens)}).console_tokens


def test_the_consoles_tokens_are_read_with_their_rights(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# those of the office\n\nlook 0123456789abcdef\r\n  act\tAZaz09-._~+/=xyz  \n  # look 0\n")
    settings = environment.read({"TURNOUT_CONSOLE_TOKENS_FILE": str(file)})
    assert settings.console_tokens == (Token("look", Secret("0123456789abcdef")), Token("act", Secret("AZaz09-._~+/=xyz")))
    assert "0123456789abcdef" not in repr(settings)


def test_mistakes_among_the_consoles_tokens_are_told_by_line_and_never_with_a_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    good, again = "look 0123456789abcdef", "act 0123456789abcdef"
    wrong = ["0123456789secret", "look", "see 0123456789secret", "look 0123456789secret # Ada", "look 012345678secret"]
    odd = ["act 0123456789#secret", "act 0123456789ésecret", f"act {'secret' * 40}"]
    file.write_text("\n".join((good, *wrong, *odd, again)))
    with pytest.raises(UsageError) as caught:
        environment.read({"TURNOUT_CONSOLE": "0.0.0.0:8081", "TURNOUT_CONSOLE_TOKENS_FILE": str(file)})
    (problem,) = caught.value.problems
    assert problem.startswith(f"TURNOUT_CONSOLE_TOKENS_FILE: {file}: line 2 is neither `look TOKEN` nor `act TOKEN`; line 3 is ")
    assert re.findall(r"line (\d+)( is neither|: a token is 16|: this token has)", problem) == [
        *((str(number), " is neither") for number in range(2, 6)),
        *((str(number), ": a token is 16") for number in range(6, 10)),
        ("10", ": this token has"),
    ]
    assert "secret" not in problem
    assert "0123456789abcdef" not in problem


def test_a_file_of_tokens_that_cannot_be_read_is_one_mistake(tmp_path: Path) -> None:
    """Not that the console is off loopback as well."""
    foreign, empty = tmp_path / "foreign", tmp_path / "empty"
    foreign.write_bytes(b"look 0123456789abcdef\xff")
    empty.write_text("# nobody yet\n")
    for path, told in (
        (tmp_path / "none", "there is no file"),
        (tmp_path, "there is no file"),
        (tmp_path / ("long" * 100), "can't be followed"),
        (foreign, "cannot read"),
        (empty, "holds no token"),
    ):
        with pytest.raises(UsageError) as caught:
            environment.read({"TURNOUT_CONSOLE": "0.0.0.0:8081", "TURNOUT_CONSOLE_TOKENS_FILE": str(path)})
        (problem,) = caught.value.problems
        assert problem.startswith("TURNOUT_CONSOLE_TOKENS_FILE: ")
        assert told in problem


@example({"TURNOUT_SECRET_KEYS_FILE": "~0"})
@example({"TURNOUT_KAFKA_SASL_PASSWORD_FILE": "~nobody-of-that-name/password"})
@example({"TURNOUT_KAFKA_SSL_CAFILE": "long" * 100})
@given(st.dictionaries(st.sampled_from(sorted(environment.NAMES)), st.text(st.characters(exclude_characters="\0"), max_size=30)))
def test_any_text_in_any_variable_gives_settings_or_names_the_variable(environ: dict[str, str]) -> None:
    problems: tuple[str, ...] = ()
    try:
        environment.read(environ)
    except UsageError as error:
        problems = error.problems or ("an error without a problem",)
    assert all(problem.split(":")[0] in environment.NAMES for problem in problems)
