"""Facts about the door over https, which every real org speaks: whom it trusts, and that all orgs share one set of root certificates."""

import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from schemas.settings import Org
from stages.salesforce.errors import OrgUnavailable
from stages.salesforce.orgs import Keep, OrgRegistry


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(
            {"access_token": "00D!1", "instance_url": self.server.url, "id": f"{self.server.url}/id/00D000000000001EAA/005000000000001AAA"}
        )

    def do_GET(self) -> None:
        self._reply({"done": True, "records": [{"Id": self.path}]})

    def _reply(self, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    url = ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that does not trust us ends the handshake: that is what these tests look at from its side."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed one for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def server(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server(("127.0.0.1", 0), Handler) as made:
        made.socket = context.wrap_socket(made.socket, server_side=True, do_handshake_on_connect=False)
        made.url = f"https://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


class Settings:
    def __init__(self, url: str) -> None:
        org = Org(id="a", login_url=url, flow="client-credentials", client_id="c", client_secret="s", organization_id="00D000000000001EAA")
        self._row = msgspec.json.encode(org)

    def get(self, key: str) -> bytes | None:
        return self._row


async def unkept(org: str, value: str) -> None:
    raise AssertionError("nothing is stored here")


@pytest.fixture
def registry(server: Server) -> Iterator[OrgRegistry]:
    made = OrgRegistry(Settings(server.url), lambda secret: secret, Keep(unkept, unkept))
    yield made
    made.close()


async def test_a_stranger_with_a_certificate_of_his_own_gets_no_secret(registry: OrgRegistry) -> None:
    with pytest.raises(OrgUnavailable) as raised:
        await registry.door("a").query("SELECT Id FROM Lead")
    assert raised.value.trouble.cause.code == "login_host_unreachable"
    assert "SSLError" in raised.value.trouble.cause.message


async def test_a_bundle_of_certificates_that_the_environment_names_is_trusted(
    registry: OrgRegistry, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    (row,) = await registry.door("a").query("SELECT Id FROM Lead")
    assert row["Id"].startswith("/services/data/v62.0/query")


async def test_trust_that_one_bundle_gave_is_not_kept_for_others(
    registry: OrgRegistry, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        await registry.door("a").query("SELECT Id FROM Lead")
    registry.close()
    with pytest.raises(OrgUnavailable):
        await registry.door("a").query("SELECT Id FROM Lead")


async def test_a_bundle_that_is_not_there_is_told_and_no_crash(registry: OrgRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(OrgUnavailable):
        await registry.door("a").query("SELECT Id FROM Lead")
