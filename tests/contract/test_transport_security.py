"""Speaking to a Kafka that wants TLS and a password, and what is said where it doesn't let us in."""

import dataclasses
import datetime
import ipaddress
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import topics
from pipeline.errors import TransportError
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.topics import TopicSpec
from tests import brokers
from tests.contract import logs
from tests.kafka.apache import ApacheKafka

pytestmark = [
    pytest.mark.skipif(brokers.kind() != brokers.APACHE, reason="the embedded broker has neither TLS nor passwords"),
    pytest.mark.timeout(240),
]

LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


def certificate(folder: pathlib.Path) -> tuple[str, pathlib.Path]:
    """A key with its certificate for loopback, signed by itself: both as one PEM line for the broker, and the authority's file for us."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public = signed.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    keystore = folder / "broker.pem"
    keystore.write_text(private + public)
    authority = folder / "ca.pem"
    authority.write_text(public)
    return str(keystore), authority


@pytest.fixture
async def guarded(tmp_path: pathlib.Path) -> AsyncIterator[KafkaSettings]:
    """What opens a broker that takes SASL over TLS only."""
    keystore, authority = certificate(tmp_path)
    opening = KafkaSettings(
        security_protocol="SASL_SSL", sasl_mechanism="PLAIN", sasl_username="turnout", sasl_password="right", ssl_cafile=str(authority)
    )
    wanted = {
        "listener.security.protocol.map": "PLAINTEXT:SASL_SSL,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.plaintext.plain.sasl.jaas.config": f'{LOGIN} required username="turnout" password="right" user_turnout="right";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": keystore,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
    }
    broker = ApacheKafka(tmp_path / "broker", wanted, opening)
    try:
        await broker.start()
        yield dataclasses.replace(opening, bootstrap=broker.bootstrap, prefix="guarded")
    finally:
        broker.stop()


async def test_topics_writing_and_reading_work_over_tls_with_a_password(guarded: KafkaSettings) -> None:
    await topics.apply(guarded, [TopicSpec("received", 1)])
    transport = KafkaTransport(guarded)
    await transport.start()
    async with logs.writer(transport) as writer, logs.reader(transport) as reader, logs.member(transport, "received") as one:
        await writer.send(logs.numbered("received", 0, range(3)))
        reader.assign({("received", 0): 0})
        assert len(await logs.read(reader, 3)) == 3
        await one.has(1)
        one.reader.seek(0, 0)
        assert len(await logs.fetched(one.reader, 3)) == 3
    await transport.stop()

    refusals: list[tuple[dict[str, Any], str]] = [
        ({"sasl_password": "mistyped"}, "Invalid username or password"),
        ({"ssl_cafile": None}, "CERTIFICATE_VERIFY_FAILED"),
    ]
    for wrong, reason in refusals:
        said = ""
        for seconds in (2.0, 15.0):
            # It tries for all of its time: that is short, and long only where it got no answer at all.
            refused = KafkaTransport(dataclasses.replace(guarded, connect_timeout_seconds=seconds, **wrong))
            with pytest.raises(TransportError) as caught:
                await refused.start()
            said = str(caught.value)
            assert "mistyped" not in said
            if reason in said:
                break
        assert reason in said
