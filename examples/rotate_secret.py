"""Give all guests a new secret: python rotate_secret.py NAME ADDRESS… < value

The value comes from standard input: every process of the machine can read arguments.
"""

import asyncio
import sys

from stereos_proto import OutcomeUnknown, StereosError
from stereos_proto_io import parse_address
from stereos_proto_io.asyncio import connect

SECONDS = 10


async def rotate(address, name, value):
    """Store the secret in one guest; return what came of it."""
    try:
        async with asyncio.timeout(SECONDS), connect(address) as guest:
            await guest.inject_secret(name, value)
    except OutcomeUnknown as exc:
        # Storing a secret twice does no harm, so this may simply be run again.
        return f"unknown, run it again: {exc}"
    except StereosError as exc:
        return f"failed: {exc}"
    except TimeoutError:
        # The scope does not tell whether the guest already has the request.
        return f"unknown, run it again: not done within {SECONDS} s"
    return "done"


async def main(name, *addresses):
    value = sys.stdin.read().removesuffix("\n")
    guests = map(parse_address, addresses)
    outcomes = await asyncio.gather(*(rotate(guest, name, value) for guest in guests))
    for address, outcome in zip(addresses, outcomes, strict=True):
        print(f"{address}: {outcome}")
    return 0 if set(outcomes) == {"done"} else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
