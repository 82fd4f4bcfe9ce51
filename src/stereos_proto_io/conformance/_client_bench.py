"""What a case of a client works with, and how one case is carried out."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeVar

import attrs

from stereos_proto import ConnectionLost, CustomRequest, GetHealth, Reply, Request, RequestFailed
from stereos_proto.dialogues import Sleep

from ._client_wire import SECRET, without_secret

#: The outcome of a function that has not returned.
_OPEN: Final = object()

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
Within = Callable[[Any, Request, float], Any]
Together = Callable[[list[Callable[[], Any]]], Any]
Error = TypeVar("Error", bound=BaseException)

NEEDS_RUN: Final = "the client is awaited: `check_client` needs `run`, such as `run=trio.run` or `run=asyncio.run`"
RUNS_NOTHING: Final = (
    "`run` did not run the coroutine function that it was given: it has to call it, and to run the coroutine to its "
    "end, as `trio.run` and `lambda main: asyncio.run(main())` do"
)

#: Seconds after which a case gives a request up that it does not want answered.
SOON: Final = 0.1


def expect(what: str, found: object, expected: object) -> None:
    """Raise AssertionError, with all three, unless what was found is what was expected."""
    if found != expected:
        raise AssertionError(f"{what}: expected {without_secret(repr(expected))}, found {without_secret(repr(found))}")


async def result(value: Any) -> Any:
    """Return a value, or what comes of awaiting it."""
    return await value if inspect.isawaitable(value) else value


def takes(function: Any, option: str, *, named: bool = False) -> bool:
    """Whether a function takes an argument of that name, as far as its signature says.

    With `named`, *args and **kwargs do not count.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return option in parameters or (not named and any(each.kind in _ANY for each in parameters.values()))


_ANY: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def run_blocking(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function that awaits nothing."""
    coroutine = main()
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise Misused(NEEDS_RUN)


class Misused(TypeError):
    """`check_client` lacks an argument that the client needs, or got one that does not work. No case is at fault."""


@attrs.frozen
class Bench:
    """What a case works with."""

    # The client under test.
    client: Any
    # Its guest: a simulator, or one that follows the script of the case.
    guest: Any
    # Ask with a deadline; run functions at once: as they were given to `check_client`.
    within: Within
    together_: Together | None = None
    # Dials until the guest is ready, within so many seconds; what is returned is as `make_client` returns it.
    when_ready: Callable[[float], Any] | None = None

    @property
    def asynchronous(self) -> bool:
        """Whether the client's verbs are awaited."""
        return hasattr(self.client, "aclose")

    # -- asking --------------------------------------------------------------------------------------------

    async def ask(self, message: Request) -> Reply:
        """Return the reply to `message`."""
        reply: Reply = await result(self.client.request(message))
        return reply

    async def is_refused(self, type_: str) -> None:
        """Ask for a type that no guest knows, and expect the refusal of that very request."""
        error = await self.fails(RequestFailed, lambda: self.client.request(CustomRequest(type_)))
        expect(f"the refusal of {type_}", error.error, f"unknown message type: {type_}")

    async def gives_up(self, message: Request, seconds: float = SOON) -> BaseException:
        """Ask with a deadline, and expect that it passes; return the error."""
        try:
            reply = await result(self.within(self.client, message, seconds))
        except TimeoutError as exc:
            return exc
        raise AssertionError(f"{message.type} with a deadline: expected TimeoutError, found {reply!r:.100}")

    async def fails(self, kind: type[Error], call: Callable[[], Any], *, exact: bool = True, what: str = "") -> Error:
        """Expect an error of `kind` (of exactly this class, unless told otherwise) without the secret; return it.

        `what` says in the error what was asked, where the name of the case does not.
        """
        asked = f"{what}: " if what else ""
        try:
            value = await result(call())
        except Exception as exc:
            if not (type(exc) is kind or (isinstance(exc, kind) and not exact)):
                raise AssertionError(f"{asked}expected {kind!r}, found {type(exc)!r}: {without_secret(exc)}") from exc
            if SECRET in f"{exc!r} {exc}":
                raise AssertionError(f"the {kind.__name__} shows the secret that was sent") from None
            return exc  # pyright: ignore[reportReturnType]
        raise AssertionError(f"{asked}expected {kind!r}, found {without_secret(repr(value))}")

    async def is_lost(self) -> None:
        """Expect that the connection has ended. A question is asked: a change that was still sent would be unknown."""
        await self.fails(ConnectionLost, lambda: self.client.request(GetHealth()))

    async def dial_again(self, seconds: float) -> Any:
        """Dial until the guest is ready, and return the client."""
        return await result(None if self.when_ready is None else self.when_ready(seconds))

    # -- several callers -----------------------------------------------------------------------------------

    async def together(self, *functions: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Run coroutine functions at once; return what each returned or raised, in order."""
        outcomes: list[Any] = [_OPEN] * len(functions)

        def caller(index: int, function: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
            async def call() -> None:
                try:
                    outcomes[index] = await function()
                except Exception as exc:  # noqa: BLE001  (it is the outcome)
                    outcomes[index] = exc

            return call if self.asynchronous else lambda: run_blocking(call)

        callers = [caller(index, function) for index, function in enumerate(functions)]
        await result((self.together_ or _together(asynchronous=self.asynchronous))(callers))
        for outcome in outcomes:
            if isinstance(outcome, AssertionError):
                raise outcome
        if _OPEN in outcomes:
            raise Misused("`together` returned before all functions that it was given had returned")
        return outcomes

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let others run until `condition()` holds. The deadline of the case bounds it."""
        while not condition():
            await result((self._pause() or self._nap)(0.005))

    def _pause(self) -> Callable[[float], Any] | None:
        """The sleep of the runtime; None where only the client knows it."""
        if not self.asynchronous:
            return time.sleep if self.together_ is None else None
        runtime = _runtime()
        return sys.modules[runtime].sleep if runtime else None

    def _nap(self, seconds: float) -> Any:
        def nap() -> Any:
            yield Sleep(seconds)

        return self.client.run(nap())

    # -- notifications, the end ----------------------------------------------------------------------------

    @asynccontextmanager
    async def news(self) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """Give a function that returns the next notification, None at the end. Generators are closed afterwards."""
        iterator = self.client.notifications()
        awaited = hasattr(iterator, "__anext__")

        async def next_one() -> Any:
            return await anext(iterator, None) if awaited else next(iterator, None)

        try:
            yield next_one
        finally:
            close = getattr(iterator, "aclose" if awaited else "close", None)
            if close is not None:
                await result(close())

    async def close(self) -> None:
        """Close the client."""
        await result(self.client.aclose() if self.asynchronous else self.client.close())


# ------------------------------------------------------------------------------------------------- runtimes


def _runtime() -> str:
    """The asynchronous runtime that runs this code: "trio", "asyncio", or "" for others."""
    trio = sys.modules.get("trio")
    if trio is not None:
        # `in_trio_task` is newer than the oldest trio that will do.
        with suppress(RuntimeError):
            trio.lowlevel.current_task()
            return "trio"
    asyncio = sys.modules.get("asyncio")
    return "asyncio" if asyncio is not None and asyncio._get_running_loop() is not None else ""


def default_within(client: Any) -> Within | None:
    """How a client is asked with a deadline, where its `request` or its runtime tells."""
    own = _WITHIN.get(_runtime()) if hasattr(client, "aclose") else None
    return _by_timeout if takes(client.request, "timeout", named=own is not None) else own


def _by_timeout(client: Any, message: Request, seconds: float) -> Any:
    return client.request(message, timeout=seconds)


async def _asyncio_within(client: Any, message: Request, seconds: float) -> Any:
    import asyncio  # noqa: PLC0415  (only a client of it needs it)

    async with asyncio.timeout(seconds):
        return await client.request(message)


async def _trio_within(client: Any, message: Request, seconds: float) -> Any:
    import trio  # noqa: PLC0415

    with trio.move_on_after(seconds):
        return await client.request(message)
    raise TimeoutError(f"cancelled after {seconds:g} s")


_WITHIN: Final[dict[str, Within]] = {"asyncio": _asyncio_within, "trio": _trio_within}


def _together(*, asynchronous: bool) -> Together:
    if not asynchronous:
        return _in_threads
    runtime = _runtime()
    if not runtime:
        raise AssertionError(
            "several callers at once: give `together`, or leave such cases out with client_cases(without=['together'])"
        )
    return _in_trio if runtime == "trio" else _in_asyncio


def _in_threads(functions: Iterable[Callable[[], Any]]) -> None:
    threads = [threading.Thread(target=function, name="caller", daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _in_asyncio(functions: Iterable[Callable[[], Any]]) -> None:
    import asyncio  # noqa: PLC0415

    await asyncio.gather(*(function() for function in functions))


async def _in_trio(functions: Iterable[Callable[[], Any]]) -> None:
    import trio  # noqa: PLC0415

    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)
