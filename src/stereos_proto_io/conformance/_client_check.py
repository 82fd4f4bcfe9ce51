"""Puts a client through its cases, each with a guest and a deadline of its own."""

from __future__ import annotations

import inspect
import sys
import tempfile
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from stereos_proto_io.addresses import TCP, Address, HybridVsock, UnixSocket
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.blocking import serve

from ._client_bench import (
    NEEDS_RUN,
    RUNS_NOTHING,
    Bench,
    Misused,
    Run,
    Together,
    Within,
    default_within,
    result,
    run_blocking,
    takes,
)
from ._client_case import ABILITIES, ClientCase
from ._client_cases import client_cases
from ._client_guest import RecordedGuest, ScriptedGuest
from ._client_wire import WireLog, without_secret

MakeClient = Callable[[Address], Any]
Main = Callable[[], Coroutine[Any, Any, None]]
WhenReady = Callable[[Address, float], Any]

#: Seconds that one case may take.
DEADLINE: Final = 10.0

#: Seconds that a client which missed the deadline gets to notice that its guest has gone.
_AFTERWARDS: Final = 1.0

#: Stack frames that the error shows of a client that hangs.
_PLACES_TOLD: Final = 6

#: Kinds of address that a case may ask for, in a folder.
_PLACES: Final[dict[str, Callable[[Path], Address]]] = {
    "unix": lambda folder: UnixSocket(folder / "guest"),
    "hybrid": lambda folder: HybridVsock(folder / "guest"),
}


@attrs.frozen
class ClientReport:
    """What `check_client` did: the names of the cases that the client passed, and why others were left out.

    As text, it shows the cases that were left out, and how many there are of both.
    """

    passed: tuple[str, ...]
    left_out: dict[str, str]

    def __str__(self) -> str:
        """A line for each case that was left out, with the reason, and the counts."""
        lines = [f"left out  {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join([*lines, f"{len(self.passed)} passed, {len(self.left_out)} left out"])


def check_client(
    make_client: MakeClient,
    *,
    run: Run | None = None,
    within: Within | None = None,
    together: Together | None = None,
    when_ready: WhenReady | None = None,
    address: Address | None = None,
    cases: Iterable[ClientCase] | None = None,
    deadline: float = DEADLINE,
    thread: bool = True,
) -> ClientReport:
    """Put a client through `cases`. Raises AssertionError for the first that it fails.

    The error names the case, says what was expected and what was found, and shows the last messages of both ends,
    without secrets.

    `make_client(address)` returns a client, or an awaitable or an (async) context manager of one: the drivers'
    `connect`. Its verbs are those of this library's clients; an asynchronous one has `aclose`, a blocking one `close`.

    `run` runs a coroutine function to its end, and is needed for an asynchronous client: `trio.run`, `asyncio.run`, or
    a function of your own such as `lambda main: asyncio.run(main(), debug=True)`.

    `within(client, message, seconds)` asks with a deadline and raises TimeoutError. By default it is
    `client.request(message, timeout=seconds)` where `request` takes a `timeout`; on asyncio and trio, it cancels the
    request. Other runtimes have to bring it.

    `together(functions)` runs functions without arguments at once, and returns when all have returned; those of an
    asynchronous client are coroutine functions. By default they run in threads where the client blocks, in tasks on
    asyncio and trio.

    `when_ready(address, seconds)` dials until the guest is ready, as `connect_when_ready` does. Without it, the
    cases for that are left out.

    The guest listens at `address`, by default at a free TCP port of this machine's loopback. A case that can be
    shown on one transport only has a unix socket of its own.

    `cases` are by default all that the arguments allow; the report says which were left out and why. A client that
    lacks a verb fails the cases which need it, unless you leave them out: `client_cases(without=["notifications"])`.

    Each case has `deadline` seconds, and runs in a thread of its own. If it is not over then, its guest ends all
    connections, the case fails, and the error says where the client hangs; its thread, if that still hangs, is left
    behind. Event loops that have to run in the caller's own thread need `thread=False`: then a client which does
    not notice the end of its connection hangs for ever.

    Raises TypeError, with a sentence that says which, when the client needs a `run` or a `within` that was not given,
    or when `run` or `together` does not run what it is given.
    """
    passed: list[str] = []
    left_out: dict[str, str] = {}
    for case in client_cases() if cases is None else cases:
        if cases is None and when_ready is None and "when_ready" in case.needs:
            left_out[case.name] = "`when_ready` was not given"
            continue
        attempt = _Attempt(case, make_client, run, within, together, when_ready)
        with _stage(case, address, deadline) as stage:
            try:
                attempt.perform(stage, deadline, thread=thread)
            except Misused as exc:
                raise TypeError(str(exc)) from exc.__cause__
            except Exception as exc:
                raise AssertionError(_failure(case, exc, stage)) from exc
        passed.append(case.name)
    return ClientReport(tuple(passed), left_out)


def _runner(run: Run | None) -> Run:
    """What runs a coroutine function. `run` of these modules runs a coroutine."""
    runs_coroutines = [vars(sys.modules[name]).get("run") for name in ("asyncio", "uvloop") if name in sys.modules]
    if run is None or run not in runs_coroutines:
        return run or run_blocking
    return lambda main: run(main())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@attrs.frozen
class _Stage:
    """The guest of a case while it is up."""

    guest: Any
    address: Address
    log: WireLog
    # Ends all its connections.
    end: Callable[[], None]

    @property
    def failures(self) -> list[BaseException]:
        """What the host did against the script of its guest."""
        return self.guest.failures if isinstance(self.guest, ScriptedGuest) else []


@contextmanager
def _stage(case: ClientCase, address: Address | None, deadline: float) -> Iterator[_Stage]:
    log = WireLog()
    with tempfile.TemporaryDirectory(prefix="stereos-") as folder:
        where = address or TCP("127.0.0.1", 0)
        if case.place and type(where) is not type(own := _PLACES[case.place](Path(folder))):
            where = own
        if case.script is not None:
            # The script times out before the case does, because its error says more precisely what it waited for.
            with ScriptedGuest(where, case.script, log, patience=0.6 * deadline) as scripted:
                yield _Stage(scripted, scripted.address, log, scripted.close)
        else:
            guest: Any = RecordedGuest(GuestSimulator(faults=case.faults, **case.options), log)
            with serve(where, guest) as server:
                yield _Stage(guest, server.address, log, server.close)


def _failure(case: ClientCase, exc: Exception, stage: _Stage) -> str:
    found = str(exc) if isinstance(exc, AssertionError) else f"{type(exc).__name__}: {without_secret(exc)}"
    said = [f"its guest: {failure}" for failure in stage.failures if failure is not exc]
    faults = f", with the faults {', '.join(case.faults)}" if case.faults else ""
    return "\n".join([f"{case.name}: {found}", *said, f"the last messages{faults}:", str(stage.log)])


@attrs.define
class _Attempt:
    """One client and one case."""

    case: ClientCase
    make_client: MakeClient
    run: Run | None
    within: Within | None
    together: Together | None
    when_ready: WhenReady | None
    error: BaseException | None = None
    # Whether the case was carried out, to its end or until something went wrong.
    over: bool = False
    # Whether what makes the client is awaited.
    awaited: bool = False

    def perform(self, stage: _Stage, deadline: float, *, thread: bool) -> None:
        """Carry the case out within `deadline` seconds. Raises what went wrong."""

        async def main() -> None:
            try:
                made = None if "when_ready" in self.case.needs else self._noted(self.make_client(stage.address))
                redial = self._redialler(stage.address)
                await carry_out(self.case, made, stage.guest, self.within, self.together, redial)
            finally:
                self.over = True

        (self._in_thread if thread else self._here)(main, stage.end, deadline)
        if self.error is not None:
            raise self.error
        if isinstance(stage.guest, ScriptedGuest):
            stage.guest.check()

    def _redialler(self, address: Address) -> Callable[[float], Any] | None:
        when_ready = self.when_ready
        return None if when_ready is None else lambda seconds: self._noted(when_ready(address, seconds))

    def _noted(self, made: Any) -> Any:
        """Return `made`, which makes a client, and note whether it is awaited."""
        self.awaited = hasattr(type(made), "__aenter__") or inspect.isawaitable(made)
        return made

    def _in_thread(
        self, main: Callable[[], Coroutine[Any, Any, None]], end: Callable[[], None], deadline: float
    ) -> None:
        thread = threading.Thread(target=self._run, args=(main,), name=f"case {self.case.name}", daemon=True)
        thread.start()
        thread.join(deadline)
        if thread.is_alive():
            where = _stack(thread)
            end()
            thread.join(_AFTERWARDS)
            raise AssertionError(f"the case was not over after {deadline:g} s; the client was here:\n{where}")

    def _here(self, main: Main, end: Callable[[], None], deadline: float) -> None:
        late = threading.Event()

        def is_late() -> None:
            late.set()
            end()

        timer = threading.Timer(deadline, is_late)
        timer.start()
        try:
            self._run(main)
        finally:
            timer.cancel()
        if late.is_set():
            raise AssertionError(f"the case was not over after {deadline:g} s")

    def _run(self, main: Main) -> None:
        try:
            _runner(self.run)(main)
        except BaseException as exc:  # noqa: BLE001  (raised again where `check_client` was called)
            self.error = exc
        if text := self._misuse():
            misuse = Misused(text)
            misuse.__cause__, self.error = self.error, misuse

    def _misuse(self) -> str:
        """What was wrong with `run`; "" where nothing was."""
        if not isinstance(self.error, Exception | None):
            return ""
        if not self.over:
            return RUNS_NOTHING
        # Without their loop, asyncio, trio and others raise a RuntimeError when a client begins.
        lacks_loop = self.run is None and self.awaited and isinstance(self.error, RuntimeError)
        return NEEDS_RUN if lacks_loop else ""


async def carry_out(
    case: ClientCase,
    made: Any,
    guest: Any,
    within: Within | None = None,
    together: Together | None = None,
    when_ready: Callable[[float], Any] | None = None,
) -> None:
    """Run `case` with the client `made`, or with that of the (async) context manager or awaitable `made`.

    `guest` is what the case asks about its guest: a simulator, or what has its attributes. Where the case is about
    dialling until the guest is ready, `made` is None and `when_ready` does it.
    """
    if "when_ready" in case.needs:
        if when_ready is None:
            raise AssertionError(_lacks("when_ready", ABILITIES["when_ready"]))
        made = when_ready(DEADLINE)
    async with _client(made) as client:
        within = within or default_within(client)
        if within is None:
            raise Misused(
                "the client's `request` takes no `timeout`: `check_client` needs `within(client, message, seconds)`, "
                "which gives up a request that is late; it has one of its own for asyncio and trio alone"
            )
        await _check(case, Bench(client, guest, within, together, when_ready))


@asynccontextmanager
async def _client(made: Any) -> AsyncIterator[Any]:
    """Yield the client `made`, or that of the awaitable or (async) context manager `made`, and close it."""
    if hasattr(type(made), "__aenter__"):
        async with made as client:
            yield client
        return
    found = await result(made)
    if hasattr(type(found), "__enter__"):
        with found as client:
            yield client
        return
    try:
        yield found
    finally:
        await result(found.aclose() if hasattr(found, "aclose") else found.close())


async def _check(case: ClientCase, bench: Bench) -> None:
    for word in sorted(case.needs - ABILITIES.keys()):
        verb, _, option = word.partition(".")
        if not hasattr(bench.client, verb):
            raise AssertionError(_lacks(verb, f"the verb `{verb}`"))
        if option and not takes(getattr(bench.client, verb), option):
            raise AssertionError(_lacks(word, f"the option `{option}` of its verb `{verb}`"))
    try:
        await case.check(bench)
    finally:
        # A script that waits for the case goes on to its end.
        if isinstance(bench.guest, ScriptedGuest):
            bench.guest.go.set()


def _lacks(word: str, what: str) -> str:
    return f"the client lacks {what}; if that is on purpose, use client_cases(without=[{word!r}])"


def _stack(thread: threading.Thread) -> str:
    """The innermost places of a thread, without those of this suite and of the threads themselves."""
    frame = sys._current_frames().get(thread.ident or 0)
    ours = (str(Path(__file__).parent), threading.__file__)
    places = [] if frame is None else traceback.extract_stack(frame)
    told = [place for place in places if not place.filename.startswith(ours)]
    return "\n".join(f"  {place.filename}:{place.lineno} in {place.name}" for place in told[-_PLACES_TOLD:])
