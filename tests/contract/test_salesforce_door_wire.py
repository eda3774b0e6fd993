"""Facts about the door on bad wires: a server in a thread that answers each call as the test says, down to single bytes."""

import dataclasses
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import msgspec
import pytest

from pipeline.errors import LeaseLost
from schemas.settings import Org
from stages.salesforce import soql
from stages.salesforce.client import Door, Hooks, Leased
from stages.salesforce.door import Subrequest
from stages.salesforce.errors import CallRefused, OrgUnavailable, OutcomeUnknown, TroubledError
from stages.salesforce.orgs import Keep, OrgRegistry
from stages.salesforce.slots import Bounds
from stages.salesforce.wire import CallTimes

Answer = Callable[["Handler"], None]
WRITE = [Subrequest("POST", "composite/sobjects", {"records": []}, {"Sforce-Auto-Assign": "FALSE"})]
QUICK = CallTimes(connect=2.0, read=1.0, total=2.0)
"""For answers that never come; all others may take what they take."""
TRICKLE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Call:
    """A call as the server got it."""

    path: str
    headers: Message
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Answers a token request itself; every other call as the next answer says, or with an empty page of records."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/services/oauth2/token":
            self.server.logins += 1
            self.reply(200, token(self.server.server_port, self.server.logins))
        else:
            self._scripted()

    def do_GET(self) -> None:
        self.body = b""
        self._scripted()

    def _scripted(self) -> None:
        self.server.calls.append(Call(self.path, self.headers, self.body))
        answer = self.server.answers.pop(0) if self.server.answers else records([])
        answer(self)

    def reply(self, status: int, body: object, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def cut(self) -> None:
        """The connection breaks without an answer."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.calls: list[Call] = []
        self.logins = 0


def token(port: int, number: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    return {"access_token": f"00D!{number}", "instance_url": url, "id": f"{url}/id/00D000000000001EAA/005000000000001AAA"}


def answer(status: int, body: object, **headers: str) -> Answer:
    return lambda handler: handler.reply(status, body, **headers)


def records(rows: list[dict[str, str]], **more: object) -> Answer:
    return answer(200, {"totalSize": len(rows), "done": True, "records": rows} | more)


def error(status: int, code: str, message: str = "m") -> Answer:
    return answer(status, [{"errorCode": code, "message": message}])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


class Settings:
    def __init__(self, port: int, **changes: object) -> None:
        org = Org(id="acme", login_url=f"http://127.0.0.1:{port}", flow="client-credentials", client_id="c", client_secret="s")
        self._row = msgspec.json.encode(msgspec.structs.replace(org, organization_id="00D000000000001EAA", **changes))

    def get(self, key: str) -> bytes | None:
        return self._row


async def unkept(org: str, value: str) -> None:
    raise AssertionError("nothing is stored here")


Observed = list[tuple[str, str]]


@pytest.fixture
def observed() -> Observed:
    return []


@pytest.fixture
def left() -> list[int]:
    return []


@pytest.fixture
def times() -> CallTimes:
    """A test may name others."""
    return CallTimes()


@pytest.fixture
def door(server: Server, observed: Observed, left: list[int], times: CallTimes) -> Iterator[Door]:
    hooks = Hooks(
        observe=lambda org, resource, outcome, seconds: observed.append((resource, outcome)), limits=lambda org, calls: left.append(calls)
    )
    registry = OrgRegistry(Settings(server.server_port), lambda secret: secret, Keep(unkept, unkept), hooks=hooks, call_times=times)
    yield registry.door("acme")
    registry.close()


async def test_a_call_carries_the_token_and_nothing_that_makes_replies_bigger(door: Door, server: Server) -> None:
    await door.query("SELECT Id FROM Lead WHERE Email = 'a+b@c.example'")
    (call,) = server.calls
    assert call.path == "/services/data/v62.0/query?q=SELECT%20Id%20FROM%20Lead%20WHERE%20Email%20%3D%20%27a%2Bb%40c.example%27"
    assert call.headers["Authorization"] == "Bearer 00D!1"
    assert call.headers["Sforce-Call-Options"] == "client=turnout"
    assert "X-PrettyPrint" not in call.headers


async def test_a_compressed_answer_in_pieces_is_read_whole(door: Door, server: Server) -> None:
    content = gzip.compress(json.dumps({"done": True, "records": [{"Id": str(n)} for n in range(500)]}).encode())

    def chunked(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        for start in range(0, len(content), 100):
            piece = content[start : start + 100]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    server.answers = [chunked, records([{"Id": "x"}])]
    assert len(await door.query("SELECT Id FROM Lead")) == 500
    assert await door.query("SELECT Id FROM Lead") == [{"Id": "x"}]


async def test_a_query_follows_its_pages(door: Door, server: Server) -> None:
    server.answers = [
        records([{"Id": "1"}], done=False, nextRecordsUrl="/services/data/v62.0/query/01g-2000"),
        records([{"Id": "2"}], done=False, nextRecordsUrl="/services/data/v62.0/query/01g-4000"),
        records([{"Id": "3"}]),
    ]
    assert [row["Id"] for row in await door.query("SELECT Id FROM Lead")] == ["1", "2", "3"]
    assert [call.path for call in server.calls[1:]] == ["/services/data/v62.0/query/01g-2000", "/services/data/v62.0/query/01g-4000"]


async def test_a_query_too_long_for_an_address_goes_in_the_body_of_a_composite(door: Door, server: Server) -> None:
    part = {"body": {"totalSize": 1, "done": True, "records": [{"Id": "1"}]}, "httpStatusCode": 200, "referenceId": "r0"}
    server.answers = [answer(200, {"compositeResponse": [part]})]
    assert await door.query(soql.select(["Id"], "Lead", f"Email IN {soql.in_list(['a' * 50] * 300)}")) == [{"Id": "1"}]
    assert server.calls[0].path == "/services/data/v62.0/composite"


async def test_a_composite_answers_in_the_order_of_its_parts(door: Door, server: Server) -> None:
    rows = [{"body": None, "httpStatusCode": 204, "referenceId": "r1"}, {"body": {"x": 1}, "httpStatusCode": 200, "referenceId": "r0"}]
    server.answers = [answer(200, {"compositeResponse": rows})]
    replies = await door.composite([Subrequest("GET", "query?q=x"), Subrequest("PATCH", "sobjects/Lead/1", {"A": "b"}, {"H": "v"})])
    assert [(reply.status, reply.body) for reply in replies] == [(200, {"x": 1}), (204, None)]
    sent = json.loads(server.calls[0].body)
    assert (sent["allOrNone"], sent["collateSubrequests"]) == (False, False)
    assert sent["compositeRequest"][1]["url"] == "/services/data/v62.0/sobjects/Lead/1"
    assert sent["compositeRequest"][1]["httpHeaders"] == {"H": "v"}


async def test_a_composite_that_lacks_a_part_is_an_unknown_outcome(door: Door, server: Server) -> None:
    server.answers = [answer(200, {"compositeResponse": []})] * 2
    with pytest.raises(OutcomeUnknown):
        await door.composite(WRITE)
    with pytest.raises(OrgUnavailable):
        await door.composite([Subrequest("GET", "query?q=x")])


async def test_a_composite_that_is_refused_whole_is_told_by_its_error(door: Door, server: Server) -> None:
    whole = {"body": [{"errorCode": "LIMIT_EXCEEDED", "message": "too many"}], "httpStatusCode": 400, "referenceId": None}
    server.answers = [answer(200, {"compositeResponse": [whole]})]
    with pytest.raises(CallRefused) as raised:
        await door.composite(WRITE)
    assert raised.value.trouble.cause.code == "LIMIT_EXCEEDED"


async def test_an_ended_session_is_renewed_once_and_the_call_repeated_with_its_headers(
    door: Door, server: Server, observed: Observed
) -> None:
    server.answers = [error(401, "INVALID_SESSION_ID"), answer(200, [])]
    reply = await door.collections("POST", "composite/sobjects", {"records": []}, {"Sforce-Auto-Assign": "FALSE"})
    assert reply.status == 200
    assert [call.headers["Authorization"] for call in server.calls] == ["Bearer 00D!1", "Bearer 00D!2"]
    assert [call.headers["Sforce-Auto-Assign"] for call in server.calls] == ["FALSE", "FALSE"]
    assert observed == [("token", "ok"), ("collections", "expired"), ("token", "ok"), ("collections", "ok")]


async def test_a_second_401_is_the_orgs_setup(door: Door, server: Server) -> None:
    server.answers = [error(401, "INVALID_SESSION_ID")] * 2
    with pytest.raises(OrgUnavailable) as raised:
        await door.composite(WRITE)
    assert (raised.value.trouble.cause.code, raised.value.trouble.kind) == ("session_refused", "org")


@pytest.mark.parametrize(
    ("lost", "times"),
    [
        pytest.param(Handler.cut, CallTimes(), id="cut"),
        pytest.param(answer(503, b"<html>Down</html>"), CallTimes(), id="503"),
        pytest.param(error(500, "UNKNOWN_EXCEPTION"), CallTimes(), id="500"),
        pytest.param(answer(502, b""), CallTimes(), id="502"),
        pytest.param(answer(200, b"<html>Hello</html>"), CallTimes(), id="html"),
        pytest.param(answer(403, b"<html>Maintenance</html>"), CallTimes(), id="403-html"),
        pytest.param(answer(302, b"", Location="http://127.0.0.1:1/"), CallTimes(), id="redirect"),
        pytest.param(lambda handler: None, QUICK, id="hangs"),
    ],
)
async def test_a_write_whose_answer_is_lost_is_unknown_and_a_read_is_the_orgs(door: Door, server: Server, lost: Answer) -> None:
    server.answers = [lost]
    with pytest.raises(OutcomeUnknown):
        await door.composite(WRITE)
    with anyio.fail_after(30):
        while not server.calls:  # noqa: ASYNC110 (it comes in a thread, perhaps only after the wait for its answer has ended)
            await anyio.sleep(0.005)
    assert len(server.calls) == 1
    server.answers = [lost, lost]
    with pytest.raises(TroubledError) as raised:
        await door.query("SELECT Id FROM Lead")
    assert not isinstance(raised.value, OutcomeUnknown)
    assert raised.value.trouble.kind == "transient"
    assert door.health.gate.doubt == isinstance(raised.value, OrgUnavailable)


async def test_a_server_that_failed_inside_over_one_query_is_no_verdict_on_the_org(door: Door, server: Server) -> None:
    server.answers = [error(500, "UNKNOWN_EXCEPTION")]
    with pytest.raises(CallRefused) as raised:
        await door.query("SELECT Id FROM Lead")
    assert raised.value.trouble.kind == "transient"
    assert not door.health.gate.doubt


async def test_a_read_is_asked_again_where_a_kept_connection_was_gone(door: Door, server: Server) -> None:
    await door.query("SELECT Id FROM Lead")
    server.answers = [Handler.cut, records([{"Id": "1"}])]
    assert await door.query("SELECT Id FROM Lead") == [{"Id": "1"}]


@pytest.mark.parametrize("times", [QUICK])
async def test_an_answer_that_trickles_ends_at_the_deadline_of_the_whole_call(door: Door, server: Server) -> None:
    """Each piece comes in time, and the whole would take a minute."""
    ended = threading.Event()

    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        try:
            for _ in range(int(TRICKLE_SECONDS / 0.05)):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            ended.set()

    server.answers = [trickle]
    began = time.monotonic()
    with pytest.raises(OutcomeUnknown) as raised:
        await door.composite(WRITE)
    assert time.monotonic() - began < TRICKLE_SECONDS / 2
    assert raised.value.trouble.cause.code == "timeout"
    assert await anyio.to_thread.run_sync(ended.wait, 30)


async def test_an_org_that_does_not_listen_was_sent_nothing() -> None:
    """So it is no unknown outcome, and no call was made that could be one."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    registry = OrgRegistry(Settings(port), lambda secret: secret, Keep(unkept, unkept))
    with pytest.raises(OrgUnavailable) as raised:
        await registry.door("acme").composite(WRITE)
    assert raised.value.trouble.cause.code == "login_host_unreachable"
    registry.close()


async def test_a_write_that_found_no_connection_was_not_made(door: Door, server: Server) -> None:
    await door.user_id()
    server.shutdown()
    server.server_close()
    with pytest.raises(OrgUnavailable) as raised:
        await door.composite(WRITE)
    assert raised.value.trouble.cause.code == "connection_failed"


async def test_the_guard_is_asked_after_connecting_and_just_before_the_bytes(door: Door, server: Server) -> None:
    threads: list[str] = []
    server.answers = [answer(200, {"compositeResponse": [{"body": [], "httpStatusCode": 200, "referenceId": "r0"}]})]
    await door.composite(WRITE, guard=lambda: threads.append(threading.current_thread().name))
    assert len(threads) == 1
    assert threads[0] != threading.current_thread().name


async def test_after_a_lost_lease_no_byte_goes_out(door: Door, server: Server) -> None:
    def lost() -> None:
        raise LeaseLost("gone")

    leased = Leased(door, lost)
    for calls in (
        lambda: leased.composite(WRITE),
        lambda: leased.collections("POST", "composite/sobjects", {}, {}),
        lambda: leased.query("SELECT Id FROM Lead"),
        lambda: leased.query("SELECT Id FROM Lead" + " " * 20_000),
        lambda: leased.follow("/services/data/v62.0/query/01g-2000"),
    ):
        with pytest.raises(LeaseLost):
            await calls()
    assert server.calls == []
    assert not door.health.gate.doubt
    await door.query("SELECT Id FROM Lead")


async def test_the_guard_is_asked_again_before_a_call_is_repeated(door: Door, server: Server) -> None:
    asked: list[int] = []

    def until_the_second() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise LeaseLost("gone")

    server.answers = [error(401, "INVALID_SESSION_ID")]
    with pytest.raises(LeaseLost):
        await door.composite(WRITE, guard=until_the_second)
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("refusal", "error_type", "code", "kind"),
    [
        (error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."), OrgUnavailable, "REQUEST_LIMIT_EXCEEDED", "org"),
        (
            error(403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded"),
            OrgUnavailable,
            "REQUEST_LIMIT_EXCEEDED",
            "transient",
        ),
        (error(403, "API_DISABLED_FOR_ORG"), OrgUnavailable, "API_DISABLED_FOR_ORG", "org"),
        (error(400, "MALFORMED_QUERY"), CallRefused, "MALFORMED_QUERY", "record"),
        (error(400, "INVALID_FIELD", "No such column 'X__c'"), CallRefused, "INVALID_FIELD", "org"),
        (error(404, "NOT_FOUND", "The requested resource does not exist"), CallRefused, "NOT_FOUND", "org"),
        (answer(414, b"<html>Too long</html>"), CallRefused, "BAD_REQUEST", "record"),
        (answer(429, b""), OrgUnavailable, "unreadable_reply", "transient"),
    ],
)
async def test_each_refusal_is_the_orgs_or_the_calls(
    door: Door, server: Server, refusal: Answer, error_type: type[TroubledError], code: str, kind: str
) -> None:
    server.answers = [refusal]
    with pytest.raises(error_type) as raised:
        await door.query("SELECT Id FROM Lead WHERE Email = 'jo@pier.example'")
    assert (raised.value.trouble.cause.code, raised.value.trouble.kind) == (code, kind)
    assert door.health.gate.doubt == (error_type is OrgUnavailable)


async def test_an_org_without_calls_is_not_called_again(door: Door, server: Server) -> None:
    server.answers = [
        answer(
            403,
            [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}],
            Sforce_Limit_Info="api-usage=15000/15000",
        )
    ]
    for _ in range(3):
        with pytest.raises(OrgUnavailable) as raised:
            await door.query("SELECT Id FROM Lead")
        assert raised.value.trouble.retry_after_seconds is not None
        assert raised.value.trouble.retry_after_seconds > 800
    assert len(server.calls) == 1


async def test_the_reserve_is_left_to_others(door: Door, server: Server, left: list[int]) -> None:
    """12,000 of 15,000 are used, by whomever: 20 % are left, and these are not ours."""
    server.answers = [
        answer(200, {"done": True, "records": []}, Sforce_Limit_Info="api-usage=12000/15000; per-app-api-usage=3/250(appName=x)")
    ]
    await door.query("SELECT Id FROM Lead")
    assert door.calls_left == 3000
    assert left[-1] == 3000
    with pytest.raises(OrgUnavailable) as raised:
        await door.query("SELECT Id FROM Lead")
    assert raised.value.trouble.cause.code == "daily_call_reserve"
    assert len(server.calls) == 1


async def test_reads_give_up_early_while_many_orgs_hang_and_writes_do_not(server: Server) -> None:
    """One of two slow places is taken, by another org's call; from then on a read waits for 0.2 s only, and a write for its answer."""
    times = CallTimes(connect=2.0, read=20.0, total=25.0, read_when_pressed=0.2)
    bounds = Bounds(slow=2, slow_after_seconds=0.01)
    registry = OrgRegistry(Settings(server.server_port), lambda secret: secret, Keep(unkept, unkept), bounds=bounds, call_times=times)
    held, let_go = threading.Event(), threading.Event()

    def hold(handler: Handler) -> None:
        held.set()
        let_go.wait(20)
        handler.reply(200, [])

    def late(handler: Handler) -> None:
        time.sleep(0.5)
        handler.reply(200, [])

    async def write(org: str) -> None:
        assert (await registry.door(org).collections("POST", "composite/sobjects", {"records": []}, {})).status == 200

    server.answers = [hold, late, late, late]
    async with anyio.create_task_group() as group:
        group.start_soon(write, "hangs")
        while not (held.is_set() and registry.door("hangs").health.gate.slow):  # noqa: ASYNC110 (it happens in threads)
            await anyio.sleep(0.005)
        with pytest.raises(OrgUnavailable) as raised:
            await registry.door("reads").query("SELECT Id FROM Lead")
        assert raised.value.trouble.cause.code == "timeout"
        await write("writes")
        let_go.set()
    registry.close()


async def test_a_describe_that_did_not_change_is_not_sent_again(door: Door, server: Server) -> None:
    modified = "Tue, 24 Nov 2026 10:00:00 GMT"
    server.answers = [
        answer(200, {"name": "Lead", "createable": True, "fields": []}, Last_Modified=modified),
        lambda handler: handler.reply(304, b""),
    ]
    first = await door.describe("Lead")
    assert await door.describe("Lead", fresh=True) is first
    assert server.calls[1].headers["If-Modified-Since"] == modified
    assert server.calls[0].path == "/services/data/v62.0/sobjects/Lead/describe"


async def test_what_is_raised_quotes_nobody(door: Door, server: Server) -> None:
    for refusal in (error(400, "MALFORMED_QUERY", "WHERE Email = 'jo@pier.example'"), Handler.cut, answer(200, b"jo@pier.example")):
        server.answers = [refusal, refusal]
        with pytest.raises(TroubledError) as raised:
            await door.query("SELECT Id FROM Lead WHERE Email = 'jo@pier.example'")
        shown = raised.value
        while shown is not None:
            assert "jo@pier.example" not in str(shown)
            shown = shown.__cause__  # type: ignore[assignment]


async def test_calls_that_run_side_by_side_keep_their_answers_apart(door: Door, server: Server) -> None:
    def echo(handler: Handler) -> None:
        handler.reply(200, {"done": True, "records": [{"Id": handler.path}]}, Sforce_Limit_Info="api-usage=1/15000")

    server.answers = [echo] * 40
    wrong: list[int] = []

    async def ask(number: int) -> None:
        (row,) = await door.query(soql.select(["Id"], "Lead", limit=number))
        if not row["Id"].endswith(f"LIMIT%20{number}"):
            wrong.append(number)

    async with anyio.create_task_group() as group:
        for number in range(1, 41):
            group.start_soon(ask, number)
    assert wrong == []
    assert server.logins == 1
