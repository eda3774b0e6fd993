"""`python -m stages.sandbox.salesforce`: the stand-in org by itself."""

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path

from stages import signals
from stages.sandbox.salesforce import SeedError, serve


async def _until_stopped(arguments: argparse.Namespace) -> int:
    code = 0

    def stop(number: int) -> None:
        nonlocal code
        code = signals.exit_code(number)
        task.cancel()

    task = asyncio.ensure_future(serve(arguments.port, arguments.orgs, arguments.seed, arguments.latency_ms, arguments.host))
    loop = asyncio.get_running_loop()
    for number in signals.STOPPING:
        loop.add_signal_handler(number, stop, number)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.sandbox.salesforce", description="A stand-in Salesforce org, or N on N ports.")
    parser.add_argument("--port", type=int, default=0, help="of the first org; 0 takes free ones")
    parser.add_argument("--orgs", type=int, default=1)
    parser.add_argument("--seed", type=Path, help="JSON file with the records to begin with")
    parser.add_argument("--latency-ms", type=float, default=0, help="what each call takes at least")
    parser.add_argument("--host", default="127.0.0.1")
    try:
        return asyncio.run(_until_stopped(parser.parse_args()))
    except (SeedError, OSError) as error:
        sys.stderr.write(f"sandbox salesforce: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
