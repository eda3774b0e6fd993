"""The environment is read once, whole, and with every mistake at once."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages import environment
from stages.environment import Address, Environment, Secret
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
