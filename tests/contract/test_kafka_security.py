"""SASL, TLS and ACLs on Apache Kafka: each mechanism through the environment's variables, and each part with no more rights than documented."""

import asyncio
import dataclasses
import datetime
import ipaddress
import pathlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Final

import aiohttp
import pytest
import pytest_asyncio
from aiokafka import errors
from aiokafka.protocol.admin import CreateAclsRequest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import topics
from pipeline.errors import TransportError
from pipeline.kafka import KafkaSettings, KafkaTransport
from pipeline.records import Outgoing
from stages import connection, flow
from stages import environment as environments
from stages.installation import free_ports
from tests import brokers
from tests.compose import ROOT
from tests.contract import logs
from tests.flow import processes, watching
from tests.flow.house import House, toml
from tests.flow.salesforce import Org
from tests.flow.tenants import Tenant, moved_in
from tests.kafka.apache import ApacheKafka

pytestmark = [
    pytest.mark.skipif(brokers.kind() != brokers.APACHE, reason="the embedded broker has no SASL, TLS or ACLs: make test-kafka"),
    pytest.mark.timeout(420),
]

HOST: Final = "127.0.0.1"
PREFIX: Final = "secured"
TOPIC, GROUP, CLUSTER = 2, 3, 4
"""Kafka's codes of resources (org.apache.kafka.common.resource.ResourceType)."""
LITERAL, PREFIXED = 3, 4
OPERATIONS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10, "AlterConfigs": 11, "IdempotentWrite": 12}
ALLOW: Final = 3
STAGES: Final = tuple(flow.STAGES)


@dataclasses.dataclass(frozen=True, slots=True)
class Right:
    """One ACL."""

    resource: int
    name: str
    pattern: int
    operation: str


def table(heading: str) -> dict[str, list[list[str]]]:
    """A table of docs/kafka-rights.md: its first column, and the names in the others."""
    text = (ROOT / "docs/kafka-rights.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)[2:]]
    return {first: [[name for name in re.split(r",\s*", cell) if name] for cell in cells] for first, *cells in rows}


def everyone() -> list[Right]:
    whole = [Right(TOPIC, f"{PREFIX}.", PREFIXED, operation) for operation in ("Describe", "DescribeConfigs")]
    return [*whole, Right(CLUSTER, "kafka-cluster", LITERAL, "DescribeConfigs")]


def looking_at(groups: Sequence[str]) -> list[Right]:
    return [Right(GROUP, f"{PREFIX}.{group}", LITERAL, "Describe") for group in groups]


def rights() -> dict[str, list[Right]]:
    """Every user of the tests with what the document gives it."""
    found: dict[str, list[Right]] = {}
    for name, (reads, writes, *groups) in {**table("Parts"), **table("Commands")}.items():
        given = [*everyone()]
        given += [Right(TOPIC, f"{PREFIX}.{topic}", LITERAL, "Read") for topic in reads]
        given += [Right(TOPIC, f"{PREFIX}.{topic}", LITERAL, "Write") for topic in writes]
        for group in groups[0] if groups else ():
            given += [Right(GROUP, f"{PREFIX}.{group}", LITERAL, operation) for operation in ("Read", "Describe")]
        found[name] = given
    for name in ("console", "lag", "workspace", "cursors"):
        found[name] += looking_at(STAGES)
    found["topics"] = [*everyone(), *(Right(TOPIC, f"{PREFIX}.", PREFIXED, operation) for operation in ("Create", "AlterConfigs"))]
    found["nobody"] = []
    found["create-blind"] = [right for right in found["create"] if (right.name, right.operation) != (f"{PREFIX}.matched", "Read")]
    found["create-alone"] = [right for right in found["create"] if right.resource != GROUP]
    return found


USERS: Final = (
    *flow.PARTS,
    "lag",
    "settings",
    "check",
    "workspace",
    "trace",
    "dead-letters",
    "replay",
    "cursors",
    "topics",
    "nobody",
    "create-blind",
    "create-alone",
    "plain",
)


@dataclasses.dataclass(slots=True)
class Secured:
    """A broker with listeners for each protocol; `folder` holds certificates and passwords."""

    broker: ApacheKafka
    folder: pathlib.Path
    ports: Mapping[str, int]

    def variables(self, protocol: str, user: str, mechanism: str = "PLAIN") -> dict[str, str]:
        """The environment of a client, without the prefix of its names."""
        told = {
            "KAFKA_BOOTSTRAP": f"{HOST}:{self.ports[protocol]}",
            "KAFKA_SECURITY_PROTOCOL": protocol,
            "TOPIC_PREFIX": PREFIX,
        }
        if protocol.startswith("SASL"):
            password = self.folder / f"{user}.password"
            password.write_text(f"{user}-secret\n")
            told |= {"KAFKA_SASL_MECHANISM": mechanism, "KAFKA_SASL_USERNAME": user, "KAFKA_SASL_PASSWORD_FILE": str(password)}
        if protocol.endswith("SSL"):
            told["KAFKA_SSL_CAFILE"] = str(self.folder / "authority.pem")
        if protocol == "SSL":
            told |= {"KAFKA_SSL_CERTFILE": str(self.folder / "client.pem"), "KAFKA_SSL_KEYFILE": str(self.folder / "client.key")}
        return told

    def settings(self, protocol: str, user: str = "", mechanism: str = "PLAIN") -> KafkaSettings:
        """As a part makes them of its environment."""
        told = {f"TURNOUT_{name}": value for name, value in self.variables(protocol, user, mechanism).items()}
        return dataclasses.replace(connection.kafka(environments.read(told)), connect_timeout_seconds=20.0)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    certify(folder)
    ports = dict(zip(("PLAINTEXT", "CONTROLLER", "SASL_PLAINTEXT", "SASL_SSL", "SSL"), free_ports(5), strict=True))
    broker = ApacheKafka(folder / "kafka", properties(folder, ports), port=ports["PLAINTEXT"])
    try:
        asyncio.run(broker.start())
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            added = f"{mechanism}=[password=scram-secret]"
            broker.tool("kafka.admin.ConfigCommand", "--alter", "--add-config", added, "--entity-type", "users", "--entity-name", "scram")
        asyncio.run(grant(broker.bootstrap, rights() | {"plain": open_rights(), "scram": open_rights(), "CN=client": open_rights()}))
        yield Secured(broker, folder, ports)
    finally:
        broker.stop()


def open_rights() -> list[Right]:
    """For whoever tests the way in, on topics of another prefix."""
    whole = [Right(TOPIC, "open.", PREFIXED, name) for name in OPERATIONS if name != "IdempotentWrite"]
    return [*whole, Right(GROUP, "open.", PREFIXED, "Read"), Right(CLUSTER, "kafka-cluster", LITERAL, "DescribeConfigs")]


def properties(folder: pathlib.Path, ports: Mapping[str, int]) -> dict[str, str]:
    """Of a broker that lets nobody do anything but whom an ACL names, and the tests' own way in."""
    listeners = ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())
    users = " ".join(f'user_{user}="{user}-secret"' for user in USERS)
    module = "org.apache.kafka.common.security"
    told = {
        "listeners": listeners,
        "advertised.listeners": listeners,
        "listener.security.protocol.map": ",".join(f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in ports),
        "controller.quorum.bootstrap.servers": f"{HOST}:{ports['CONTROLLER']}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "authority.pem"),
        "listener.name.ssl.ssl.client.auth": "required",
    }
    for listener in ("sasl_plaintext", "sasl_ssl"):
        told[f"listener.name.{listener}.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
        told[f"listener.name.{listener}.plain.sasl.jaas.config"] = f"{module}.plain.PlainLoginModule required {users};"
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            told[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = f"{module}.scram.ScramLoginModule required;"
    return told


def certify(folder: pathlib.Path) -> None:
    """An authority, a server and a client of it, and an authority that nobody trusts."""
    authority, key = certificate("authority", None)
    (folder / "authority.pem").write_bytes(pem(authority))
    (folder / "stranger.pem").write_bytes(pem(certificate("stranger", None)[0]))
    server, server_key = certificate("server", (authority, key))
    (folder / "server.pem").write_bytes(private(server_key) + pem(server) + pem(authority))
    client, client_key = certificate("client", (authority, key))
    (folder / "client.pem").write_bytes(pem(client))
    (folder / "client.key").write_bytes(private(client_key))


Issued = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def certificate(name: str, issuer: Issued | None) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
    )
    return built.sign(key if issuer is None else issuer[1], hashes.SHA256()), key


def pem(certified: x509.Certificate) -> bytes:
    return certified.public_bytes(serialization.Encoding.PEM)


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


async def grant(bootstrap: str, given: Mapping[str, Sequence[Right]]) -> None:
    transport = KafkaTransport(KafkaSettings(bootstrap=bootstrap))
    await transport.start()
    try:
        for user, acls in given.items():
            for acl in acls:
                asked = CreateAclsRequest(acl.resource, acl.name, acl.pattern, f"User:{user}", "*", OPERATIONS[acl.operation], ALLOW)
                response = await transport.cluster.admin._send_request(asked)
                assert errors.for_code(response.creation_responses[0][0]) is errors.NoError, response
    finally:
        await transport.stop()


WAYS: Final = [
    ("SASL_PLAINTEXT", "plain", "PLAIN"),
    ("SASL_PLAINTEXT", "scram", "SCRAM-SHA-256"),
    ("SASL_SSL", "scram", "SCRAM-SHA-512"),
    ("SSL", "", "PLAIN"),
]


@pytest.mark.parametrize(("protocol", "user", "mechanism"), WAYS)
async def test_each_way_in_that_the_environment_knows_reads_and_writes(secured: Secured, protocol: str, user: str, mechanism: str) -> None:
    """Topics made, a record written with acks=all and read back; with a certificate of the client's own for SSL."""
    settings = dataclasses.replace(secured.settings(protocol, user, mechanism), prefix="open")
    await topics.apply(settings, [topics.TopicSpec(f"log-{protocol}-{mechanism}".lower(), 1)])
    transport = KafkaTransport(settings)
    await transport.start()
    try:
        name = f"log-{protocol}-{mechanism}".lower()
        async with logs.writer(transport) as writer, logs.reader(transport) as reader:
            acks = await writer.send([Outgoing(name, b"k", b"v")])
            reader.assign({(name, 0): 0})
            assert [(record.offset, record.value) for record in await logs.read(reader, 1)] == [(acks[0].offset, b"v")]
    finally:
        await transport.stop()


@pytest.mark.parametrize("wrong", ["password", "authority", "protocol"])
async def test_a_wrong_way_in_is_one_clear_error(secured: Secured, wrong: str) -> None:
    # It tries for all of this time.
    settings = dataclasses.replace(secured.settings("SASL_SSL", "plain"), connect_timeout_seconds=8.0)
    if wrong == "password":
        settings = dataclasses.replace(settings, sasl_password="guessed")
    elif wrong == "authority":
        settings = dataclasses.replace(settings, ssl_cafile=str(secured.folder / "stranger.pem"))
    else:
        settings = dataclasses.replace(settings, security_protocol="SASL_PLAINTEXT")
    transport = KafkaTransport(settings)
    with pytest.raises(TransportError) as caught:
        await transport.start()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "guessed" not in str(caught.value)


def test_whoever_has_no_rights_is_told_so(secured: Secured) -> None:
    ended = processes.command(["topics", "apply"], processes.environment(**secured.variables("SASL_PLAINTEXT", "nobody")))
    assert ended.returncode == 1
    assert re.search(r"it lacks \w+ on the \w+ .*docs/kafka-rights\.md", ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def house(secured: Secured, tmp_path: pathlib.Path) -> Iterator[House]:
    """A house whose parts each come in by a user of their own."""
    keys = tmp_path / "keys"
    plain = processes.environment(**secured.variables("SASL_PLAINTEXT", "topics"), PARTITIONS="3", INGRESS=f"{HOST}:0", CONSOLE=f"{HOST}:0")
    keys.write_text(processes.done(["keys", "new"], plain))
    keys.chmod(0o600)
    built = House(secured.broker.bootstrap, tmp_path, PREFIX, plain | {"TURNOUT_SECRET_KEYS_FILE": str(keys)})
    processes.done(["topics", "apply"], built.environment)
    try:
        yield built
    finally:
        built.stop()


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


async def test_each_part_and_command_works_with_the_rights_of_the_document_and_no_others(
    secured: Secured, house: House, http: aiohttp.ClientSession, tmp_path: pathlib.Path
) -> None:
    """From a signed webhook to a Contact with its Account and the Campaign Member, and every command that an operator has."""

    def done(command: str, *arguments: str) -> str:
        """As the user that the document's table names by the command."""
        told = secured.variables("SASL_PLAINTEXT", command)
        return processes.done([command, *arguments], house.environment | {f"TURNOUT_{name}": value for name, value in told.items()})

    assert set(table("Parts")) == set(flow.PARTS)
    with processes.running(
        ["sandbox", "salesforce", "--port", "0"], processes.environment(), tmp_path / "org.log", r"sandbox salesforce ready: (\S+)"
    ) as (_, ready):
        tenant = Tenant("acme", ready.group(1))
        settings = tmp_path / "settings.toml"
        settings.write_text(tenant_settings(tenant))
        done("settings", "apply", str(settings))
        await asyncio.gather(*(asyncio.to_thread(house.start, [part], **secured.variables("SASL_PLAINTEXT", part)) for part in flow.PARTS))
        async with watching.listening(house.bootstrap, PREFIX, ("synced", "dead-letters")) as heard:
            place = await moved_in(house, tenant, heard, http)
            session = await place.session()
            await place.registered(session, "ada@example.com", company="Analytical Engines")
            await place.synced()
            org = Org("acme", tenant.url, http)
            assert [len(await org.records(name)) for name in ("Contact", "Account", "Campaign", "CampaignMember")] == [1, 1, 1, 1]

            async def all_committed() -> None:
                assert (await place.lag())["unfinished"] == 0

            await watching.eventually(all_committed)

            async def run(*words: str) -> str:
                return await asyncio.to_thread(done, *words)

            await run("check")
            await run("lag")
            assert "Roadmap" in await run("workspace", "show", tenant.workspace)
            assert "campaign-membership" in await run("trace", "ada@example.com")
            await run("cursors", "restore", "--stage", "match")
            await run("workspace", "pause", tenant.workspace)
            await run("workspace", "resume", tenant.workspace)
            await run("replay", "--stage", "match", "--from", "2026-01-01T00:00:00Z", "--workspace", tenant.workspace)
            await place.deliver(b"[]")
            await place.settled()
            assert "unexpected_shape" in await run("dead-letters", "list")
            with pytest.raises(processes.ProcessError, match="can still not be read and stay open"):
                await run("dead-letters", "retry", "--all")
            await place.registered(session, "grace@example.com", company="Analytical Engines")

            async def arrived() -> None:
                assert len(await org.records("Contact")) == 2

            # Then each part has worked on after all these commands.
            await watching.eventually(arrived)
            await watching.eventually(all_committed)
            assert all(child.code is None and "it lacks" not in child.tail() for child in house.children)


def tenant_settings(tenant: Tenant) -> str:
    return toml({"org": [tenant.org_table()], "workspace": [tenant.workspace_table(objects={"create": "contact"})]})


@pytest.mark.parametrize(
    ("user", "right"),
    [
        ("ingress", "Read on the topic"),
        ("create-blind", f"Read on the topic {PREFIX}.matched"),
        ("create-alone", f"Describe on the group {PREFIX}.create"),
    ],
)
def test_a_part_without_its_rights_ends_with_the_right_that_it_lacks(secured: Secured, house: House, user: str, right: str) -> None:
    """What the ingress may do is not enough for a stage; nor is all of the stage's own but its topic, or but its group."""
    told = {f"TURNOUT_{name}": value for name, value in secured.variables("SASL_PLAINTEXT", user).items()}
    ended = processes.command(["run", "create"], house.environment | told)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("turnout: ")
    assert right in last
    assert "docs/kafka-rights.md" in last
    assert "Traceback" not in ended.stderr
