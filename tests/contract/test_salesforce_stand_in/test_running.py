"""The stand-in as a process of its own."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "stages.sandbox.salesforce",
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_says_in_one_line_when_and_where_it_is_ready_and_ends_when_told(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    seed = tmp_path / "seed.json"
    seed.write_text(json.dumps({"Account": [{"Name": "Mill"}]}))
    async with running("--orgs", "3", "--seed", str(seed)) as process, asyncio.timeout(60):
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        while "sandbox salesforce ready:" not in line:
            line = (await process.stdout.readline()).decode()
        urls = line.partition("ready:")[2].split()
        assert len(set(urls)) == 3
        for url in urls:
            async with http.get(f"{url}/sandbox") as response:
                assert (response.status, (await response.json())["instance_url"]) == (200, url)
            async with http.get(f"{url}/sandbox/records/Account") as response:
                assert [row["Name"] for row in (await response.json())["records"]] == ["Mill"]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_a_seed_with_a_mistake_ends_it_with_the_reason(tmp_path: Path) -> None:
    seed = tmp_path / "seed.json"
    seed.write_text(json.dumps({"Leed": []}))
    async with running("--seed", str(seed)) as process, asyncio.timeout(60):
        _, said = await process.communicate()
        assert (process.returncode, f"{seed}: no such object: Leed" in said.decode()) == (1, True)
