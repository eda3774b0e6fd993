"""Posts signed webhooks as fast as the ingress takes them: all made beforehand, one after the other on each of several connections."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from tests.bench.outcomes import BenchError
from tests.bench.stand import Stand
from tests.flow import livestorm

CONNECTIONS: Final = 32


async def post(stand: Stand, bodies: Sequence[bytes]) -> float:
    """Seconds until the last one was accepted. Raises BenchError where one is not."""
    where = urlsplit(stand.ingress)
    requests = iter([_request(stand, where.netloc, body) for body in bodies])
    started = time.monotonic()
    await asyncio.gather(*(_some(requests, str(where.hostname), where.port or 80) for _ in range(CONNECTIONS)))
    return time.monotonic() - started


def _request(stand: Stand, host: str, body: bytes) -> bytes:
    """Written out, since aiohttp's client would take more of the processor than the ingress does."""
    lines = (
        f"POST /livestorm/{stand.workspace} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"{livestorm.HEADER}: {livestorm.sign(stand.secret, body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


async def _some(requests: Iterator[bytes], host: str, port: int) -> None:
    answers, connection = await asyncio.open_connection(host, port)
    for request in requests:
        connection.write(request)
        head = (await answers.readuntil(b"\r\n\r\n")).decode().lower()
        await answers.readexactly(int(head.partition("content-length:")[2].split()[0]))
        if (status := head.split()[1]) != "202":
            raise BenchError(f"the ingress answered {status}")
    connection.close()
    await connection.wait_closed()
