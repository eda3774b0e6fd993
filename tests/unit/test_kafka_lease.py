"""The lease as arithmetic, the masked settings, the placing of keys, and what is passed on of aiokafka's log: all without a broker."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.kafka import KafkaSettings, Lease, partition_of
from pipeline.kafka.quiet import Seldom

SESSION = 30.0
REBALANCE = 60.0

moments = st.lists(st.tuples(st.floats(0.0, 20.0), st.booleans()), min_size=1, max_size=30)


class Watch:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def lease(watch: Watch) -> Lease:
    return Lease(SESSION, REBALANCE, watch)


def test_there_is_none_before_partitions_were_given(lease: Lease, watch: Watch) -> None:
    lease.renew(watch.now, settled=True)
    assert lease.seconds() < 0


def test_it_is_half_the_session_from_the_sending_of_the_request(lease: Lease, watch: Watch) -> None:
    lease.begin()
    asked_at = watch.now
    watch.now += 4
    lease.renew(asked_at, settled=True)
    assert lease.seconds() == SESSION / 2 - 4


def test_a_late_answer_to_an_early_request_does_not_shorten_it(lease: Lease, watch: Watch) -> None:
    lease.begin()
    lease.renew(watch.now, settled=True)
    lease.renew(watch.now - 10, settled=True)
    assert lease.seconds() == SESSION / 2


def test_it_ends_with_the_partitions_and_late_answers_do_not_wake_it(lease: Lease, watch: Watch) -> None:
    lease.begin()
    lease.renew(watch.now, settled=True)
    lease.end()
    assert lease.seconds() < 0
    lease.renew(watch.now, settled=True)
    assert lease.seconds() < 0


def test_during_a_rebalance_it_reaches_no_further_than_the_rebalance_timeout(lease: Lease, watch: Watch) -> None:
    """Heartbeats are accepted to the last, and then the broker gives the partitions away."""
    lease.begin()
    settled_at = watch.now
    lease.renew(settled_at, settled=True)
    while watch.now < settled_at + REBALANCE:
        watch.now += 3
        lease.renew(watch.now, settled=False)
        assert watch.now + lease.seconds() <= settled_at + REBALANCE
    assert lease.seconds() <= 0


@given(moments)
def test_it_never_outlasts_what_the_broker_grants(steps: list[tuple[float, bool]]) -> None:
    """For any pauses between requests and any rebalances: no longer than half a session from the last request, nor a rebalance from the last settled one."""
    watch = Watch()
    lease = Lease(SESSION, REBALANCE, watch)
    lease.begin()
    last = settled_at = float("-inf")
    for pause, settled in steps:
        watch.now += pause
        last = watch.now
        settled_at = watch.now if settled else settled_at
        lease.renew(watch.now, settled=settled)
        assert watch.now + lease.seconds() <= min(last + SESSION / 2, settled_at + REBALANCE)


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_are_placed_as_the_java_client_places_them(key: bytes, hashed: int) -> None:
    """The hashes are those of Kafka's own test of its murmur2 (UtilsTest.testMurmur2)."""
    assert partition_of(key, 12) == (hashed & 0x7FFFFFFF) % 12


def test_the_password_is_in_no_repr() -> None:
    settings = KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="turnout", sasl_password="hunter2")
    assert "hunter2" not in repr(settings)
    assert settings.connection()["sasl_plain_password"] == "hunter2"


def test_names_carry_the_prefix_and_lose_it_again() -> None:
    settings = KafkaSettings(prefix="acme", instance="box-1")
    assert (settings.topic("received"), settings.group("match")) == ("acme.received", "acme.match")
    assert settings.logical("acme.received") == "received"
    assert settings.group_instance("match") == "box-1-match"
    assert KafkaSettings().group_instance("match") is None


def line(message: str, level: int = logging.ERROR, name: str = "aiokafka.conn") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, None, None)


def test_one_kind_of_line_passes_once_in_a_while_and_counts_what_it_held_back(watch: Watch) -> None:
    seldom = Seldom(30.0, watch)
    assert seldom.filter(line("cannot connect"))
    assert not seldom.filter(line("cannot connect"))
    assert not seldom.filter(line("cannot connect"))
    assert seldom.filter(line("something else"))
    assert seldom.filter(line("cannot connect", name="aiokafka.client"))
    watch.now += 31
    again = line("cannot connect")
    assert seldom.filter(again)
    assert again.getMessage() == "cannot connect (2 more like this before)"


def test_chatter_and_the_ordinary_do_not_pass(watch: Watch) -> None:
    seldom = Seldom(30.0, watch)
    assert not seldom.filter(line("joined", logging.INFO))
    assert not seldom.filter(line("Heartbeat failed for group %s because it is rebalancing", logging.WARNING))
    seldom.silent += 1
    assert not seldom.filter(line("cannot connect"))
