"""What hosts go through: those on the machine that runs the tests, and those in a guest that has a guest itself."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress

#: Seconds for what works, on a busy machine.
PATIENCE = 60
#: Seconds for what cannot work: as long as we are willing to wait.
IMPATIENCE = 2
#: An agent that answers a ping after the machine's end only.
SLOW = "late:600s@ping"


def in_step(runs, *moments):
    """Run each of `runs` in a thread, in step with what happens meanwhile; return the results, by key.

    Each is called with two barriers for each of the `moments`, functions without arguments: where all meet before
    it, and after it.
    """
    barriers = [threading.Barrier(len(runs) + 1) for _ in range(2 * len(moments))]

    def give_up():
        for barrier in barriers:
            barrier.abort()

    def go(run):
        try:
            return run(*barriers)
        except BaseException:
            give_up()
            raise

    with ThreadPoolExecutor(len(runs)) as threads:
        running = {key: threads.submit(go, run) for key, run in runs.items()}
        try:
            # Who has failed says so below, and is the first to end.
            with suppress(threading.BrokenBarrierError):
                for moment, before, after in zip(moments, barriers[::2], barriers[1::2], strict=True):
                    before.wait(2 * PATIENCE)
                    moment()
                    after.wait(2 * PATIENCE)
        except BaseException:
            give_up()
            raise
        for run in as_completed(running.values()):
            run.result()
        return {key: run.result() for key, run in running.items()}


async def dial_and_ping(host, address):
    """Dial, and ping; return the kinds of what came of it."""
    dialled = await host.see(PATIENCE, host.dial, address)
    if dialled.error:
        return dialled.kind, str(dialled.error), getattr(dialled.error, "retryable", None)
    pinged = await host.see(PATIENCE, dialled.result.ping)
    await host.close(dialled.result)
    return pinged.kind, str(pinged.error), None


async def wait_and_ping(host, address, boot_time):
    """Wait for a guest; return how that went, and what a ping brought then."""
    start = time.monotonic()
    client = await host.within(boot_time, host.ready, address)
    return lost_tries(host.tries, start), (await host.see(PATIENCE, client.ping)).kind


def lost_tries(tries, start):
    """How many tries brought silence although the agent was up, and for how many seconds it had been up in the end.

    An error costs next to nothing; silence costs the whole time that a try may take.
    """
    uptime = tries[-1][1].health.uptime_seconds
    up = tries[-1][0] - uptime
    begins = [start, *(end for end, _ in tries)]
    silent = [end for begin, (end, progress) in zip(begins, tries, strict=False) if progress.error and end > begin + 2]
    return sum(end > up for end in silent), uptime


async def go_through_a_reboot(host, address, boot_time, patience, asking, rebooted):
    """Ask before the reboot, and after it over the old connection and a new one; return the kinds of what came.

    `patience` is what the old connection gets.
    """
    # Not one dial: the kernel gives a vsock connection two seconds, which a slow nested guest may need longer for.
    client = await host.within(boot_time, host.ready, address)
    asking.wait(PATIENCE)
    during = (await host.see(2 * IMPATIENCE, client.ping)).kind
    rebooted.wait(2 * boot_time)
    old = (await host.see(patience, client.get_health)).kind
    await host.close(client)
    new = await host.within(boot_time, host.ready, address)
    return during, old, (await host.see(PATIENCE, new.ping)).kind


async def be_there_when_it_ends(host, addresses, ready, ended):
    """Connect and ask; return what came of the request, and of the next dial, by transport."""
    clients = {transport: await host.within(PATIENCE, host.dial, address) for transport, address in addresses.items()}
    for client in clients.values():
        # The request is under way, and stays so.
        assert (await host.see(0.5, client.ping)).kind == "Timeout"
    ready.wait(PATIENCE)
    ended.wait(PATIENCE)
    last = {transport: (await host.see(PATIENCE, client.ping)).kind for transport, client in clients.items()}
    return last, {transport: await dial_and_ping(host, address) for transport, address in addresses.items()}


async def shut_down(host, address):
    """Shut the guest down; return the kind of what came of it."""
    client = await host.within(PATIENCE, host.dial, address)
    return (await host.see(PATIENCE, client.shutdown)).kind
