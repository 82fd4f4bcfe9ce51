"""Signals as shells expect them, and a terminal that is as it was before, however the command ends.

================== ==================================================================================================
Ctrl-C (SIGINT)    ends the command; after cleaning up the process dies of SIGINT, so that a loop of the shell ends.
                   `watch`, `ls -w`, `simulate` and `record` last until Ctrl-C: for them it is the ordinary end, code 0.
                   A second one does not lose the results that are being written; a third one ends the command at once
SIGTERM, SIGHUP    clean up, and die of the signal; `watch`, `ls -w`, `simulate` and `record` end with code 0. That a
                   terminal was closed, and cannot be given back, changes nothing about it
Ctrl-Z (SIGTSTP)   gives the terminal back (cursor, echo, key by key), and takes it again when the command is continued
SIGWINCH           draws anew in the new size
================== ==================================================================================================
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from threading import Event, Thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from . import ordinary_handlers
from ._console import leave_what_fails
from ._errors import INTERRUPTED, BrokenOutput, OutputFailed, Stopped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

_ENDING: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_STOP: Final = getattr(signal, "SIGTSTP", None)
_CONTINUE: Final = getattr(signal, "SIGCONT", None)
_RESIZE: Final = getattr(signal, "SIGWINCH", None)

Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handling(handlers: dict[int | None, Handler]) -> Iterator[None]:
    """Handle signals for the length of a `with`. A signal that this system lacks, or that is ignored, is left alone."""
    before: dict[int, Any] = {}
    try:
        for number, handler in handlers.items():
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                # ValueError: not the main thread, which gets no signals.
                with suppress(ValueError):
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


#: Seconds in which a signal counts as the one before it. GNU `timeout` signals the command, and then the group of
#: processes that the command is in; systemd may send SIGHUP right after SIGTERM. A person is slower.
_SAME: Final = 0.3

#: How many signals leave the command the time to write its results. The next one is of a user who wants it to end.
_PATIENT: Final = 2


def nothing() -> None:
    """Do nothing: the results are being written, which ends by itself."""


class _Interruptions:
    """The handler of SIGINT, SIGTERM and SIGHUP. It raises KeyboardInterrupt, or Stopped, where the command is.

    Where results would be lost (`keeping_results`, `hold`) it calls `stop` instead, and raises once they are written.
    """

    def __init__(self) -> None:
        #: What ends the work whose results are kept. None: nothing is kept, and an interruption is raised at once.
        self.stop: Callable[[], object] | None = None
        #: The signal that is held back.
        self.held: int | None = None
        #: Signals that the command has got.
        self.count = 0
        #: Whether there may have been results by now.
        self.kept = False
        self._last = 0
        self._when = -inf
        #: The signal whose exception was raised, and that exception, until something has caught it (`caught`).
        self._owed: tuple[int, weakref.ref[KeyboardInterrupt]] | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Interrupt the command."""
        now, again = time.monotonic(), self._last in (number, *_ENDING)
        if again and now - self._when < _SAME:
            return
        self._last, self._when = number, now
        self.count += 1
        self._interrupt(number)

    def _interrupt(self, number: int) -> None:
        if self.stop is None or self.count > _PATIENT:
            raise self._remembered(number)
        if self.held is None:
            self.held = number
            self.stop()

    def _remembered(self, number: int) -> KeyboardInterrupt:
        # No variable of the frame that raises it has it: that would keep it alive.
        exc = _interruption(number)
        self._owed = number, weakref.ref(exc)
        return exc

    def caught(self) -> None:
        """Note that the command has caught the exception, and that none is owed any more."""
        self._owed = None

    def again(self) -> None:
        """Interrupt the command once more where the exception was lost.

        The handler runs between any two instructions, also in a callback of a weak reference or in a `__del__`, whose
        exceptions Python discards. An exception that was not caught and no longer exists was discarded.
        """
        if self._owed is not None and self._owed[1]() is None:
            number, self._owed = self._owed[0], None
            self._interrupt(number)


class _Interrupt(KeyboardInterrupt):
    """Ctrl-C. Unlike a KeyboardInterrupt of Python's own it can have a weak reference."""


def _interruption(number: int) -> KeyboardInterrupt:
    return _Interrupt() if number == signal.SIGINT else Stopped(number)


#: One, since signals come to the process.
_interruptions: Final = _Interruptions()
ordinary_handlers.append(_interruptions)


@contextmanager
def interruptible() -> Iterator[None]:
    """Run one command in a `with`, which Ctrl-C interrupts unless a program that calls us handles that itself."""
    _interruptions.count, _interruptions.held, _interruptions.kept = 0, None, False
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with handling({signal.SIGINT: _interruptions} if ours else {}):
        try:
            yield
        finally:
            interruption_caught()


def interruption_caught() -> None:
    """Say that an interruption was caught and ends here: otherwise the heartbeat takes it for lost, and repeats it."""
    _interruptions.caught()


@contextmanager
def keeping_results(stop: Callable[[], object] | None = None) -> Iterator[None]:
    """Let no interruption lose results, for the length of a `with`: from `hold` on, or from the beginning with `stop`.

    Until then an interruption is raised at once, as everywhere. From then on it calls `stop`, and is raised at the end
    of the outermost `with` that holds it back. A second one waits as well; a third one is raised at once.
    """
    before = _interruptions.stop
    try:
        if stop is not None:
            hold(stop)
        yield
    except (KeyboardInterrupt, BrokenOutput, OutputFailed):
        # An output that cannot be written to any more belongs to a terminal that was closed, most likely.
        _interruptions.stop = before
        raise_what_is_held()
        raise
    finally:
        _interruptions.stop = before
    raise_what_is_held()


def hold(stop: Callable[[], object] = nothing) -> None:
    """Hold interruptions back to the end of the innermost `keeping_results`; the first one calls `stop`.

    `stop` is called at once where one is held back already. It may be called from a signal handler, and twice.
    """
    _interruptions.stop, _interruptions.kept = stop, True
    if _interruptions.held is not None:
        stop()


def nothing_was_kept() -> bool:
    """Whether the command was interrupted before there were results to keep: then it has said nothing either."""
    return not _interruptions.kept


def raise_what_is_held() -> None:
    """Raise the interruption that was held back, where nothing holds it back any more."""
    them = _interruptions
    if them.stop is None and them.held is not None:
        number, them.held = them.held, None
        raise _interruption(number) from None


def ending_cleanly() -> Any:
    """Let SIGTERM and SIGHUP unwind what is under way, as Stopped, for the length of a `with`."""
    return handling(dict.fromkeys(_ENDING, _interruptions))


@contextmanager
def ended_by_signals(*, interrupt: bool) -> Iterator[None]:
    """Leave the `with` on SIGTERM or SIGHUP, and with `interrupt` on Ctrl-C: these are the command's ordinary end."""
    try:
        with ending_cleanly():
            yield
    except Stopped:
        interruption_caught()
        # A terminal that was closed sends SIGHUP.
        leave_what_fails()
    except KeyboardInterrupt:
        if not interrupt:
            raise
        interruption_caught()


@contextmanager
def signals_as_event() -> Iterator[Event]:
    """Turn SIGTERM, SIGHUP and Ctrl-C into an event, for the length of a `with` that looks at it.

    An exception in the middle of a thread's join can leave behind what that thread was to remove.
    """
    stop = Event()
    with handling(dict.fromkeys((*_ENDING, signal.SIGINT), lambda _number, _frame: stop.set())):
        yield stop


#: Seconds after which a signal that did not interrupt a wait is noticed.
_BEAT: Final = 0.5
#: None where the system has no such signal.
_BEAT_SIGNAL: Final = getattr(signal, "SIGURG", None)


@contextmanager
def heartbeat() -> Iterator[None]:
    """Interrupt whatever the main thread waits for, again and again, for the length of a `with`.

    Python notes a signal, and runs its handler between two instructions. A signal that arrives after the last
    instruction and before the system call that waits is noted, but interrupts nothing: Ctrl-C would only take effect
    at the end of the wait, which may be minutes away. Each SIGURG interrupts the wait, Python runs the handlers of all
    signals that it has noted, and waits on. It also repeats an interruption that was lost.

    A thread sends it, and no timer: the process may have got its SIGALRM timer from the program that started it, which
    wants it to end then. SIGURG is ignored by default, so that a late one does no harm.
    """
    if _BEAT_SIGNAL is None:
        yield
        return

    def go_on(_number: int, _frame: FrameType | None) -> None:
        _interruptions.again()

    with handling({_BEAT_SIGNAL: go_on}):
        over = Event()
        # Only the main thread can set the handler.
        if signal.getsignal(_BEAT_SIGNAL) is go_on:
            Thread(target=_beat, args=(main_thread().ident, _BEAT_SIGNAL, over), name="heartbeat", daemon=True).start()
        try:
            yield
        finally:
            over.set()


def _beat(thread: int, number: int, over: Event) -> None:
    while not over.wait(_BEAT):
        signal.pthread_kill(thread, number)


def as_process(run: Callable[[], int]) -> int:
    """Run a command as a whole process: signals end it as the table above says. Return its exit code."""
    # Until the process dies: a signal that comes twice must not interrupt its end.
    with handling(dict.fromkeys((signal.SIGINT, *_ENDING), _interruptions)), heartbeat():
        try:
            code = run()
        except Stopped as exc:
            _die_of(exc.number)
            return 128 + exc.number
        if code == INTERRUPTED:
            _die_of(signal.SIGINT)
        return code


def _die_of(number: int) -> None:
    """End this process by a signal, as the shell expects of a command that was interrupted."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class _OneAtATime:
    """Does something for a signal, and once more where the signal comes meanwhile; never within itself.

    A window that is dragged sends SIGWINCH faster than a screen is drawn.
    """

    def __init__(self, do: Callable[[], object]) -> None:
        self._do = do
        self._under_way = False
        self._again = False

    def __call__(self) -> None:
        self._again = True
        if self._under_way:
            return
        self._under_way = True
        try:
            while self._again:
                self._again = False
                self._do()
        finally:
            self._under_way = False


@contextmanager
def unless_closed() -> Iterator[None]:
    """Give the terminal back, or take it again, where it has not been closed: then there is nothing to be done."""
    try:
        yield
    except (BrokenOutput, OutputFailed):
        pass
    except Exception as exc:
        # The errors of termios are no OSError. A terminal that hangs up sends SIGCONT along with SIGHUP.
        if exc.args[:1] != (errno.EIO,):
            raise


#: What has been taken from the terminal, in order: what gives it back, and what takes it again.
_taken: Final[list[tuple[Callable[[], None], Callable[[], None]]]] = []


def _lend(number: int, _frame: FrameType | None) -> None:
    for give_back, _ in reversed(_taken):
        with unless_closed():
            give_back()
    handler = signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    # Here the process is stopped, and here it goes on; SIGCONT is what takes the terminal again.
    signal.signal(number, handler)


@_OneAtATime
def _take_all() -> None:
    for _, take in _taken:
        with unless_closed():
            take()


def _take_again(_number: int, _frame: FrameType | None) -> None:
    _take_all()


@contextmanager
def lending(give_back: Callable[[], None], take: Callable[[], None]) -> Iterator[None]:
    """Give the terminal back while the process is stopped (Ctrl-Z), and take it again when it goes on.

    It may be nested: what was taken last is given back first. SIGCONT comes after SIGSTOP, too, which gives no notice;
    the shell has changed the terminal's modes all the same.
    """
    _taken.append((give_back, take))
    try:
        with handling({_STOP: _lend, _CONTINUE: _take_again}):
            yield
    finally:
        _taken.pop()


def _stop_drawing(live: Live) -> None:
    with unless_closed():
        live.stop()


@contextmanager
def drawing(draw: Callable[[], Any], console: Console, *, screen: bool = False, moving: bool = True) -> Iterator[Live]:
    """Draw what `draw` returns, again and again, for the length of a `with`.

    `screen` takes the whole screen and gives it back at the end; otherwise what was drawn is taken back. `moving` draws
    by itself several times a second; without it, `refresh` does, and a change of the terminal's size.
    """
    from rich.live import Live  # noqa: PLC0415  (only what draws needs it)

    live = Live(
        get_renderable=draw,
        console=console,
        screen=screen,
        transient=True,
        auto_refresh=moving,
        refresh_per_second=8,
        vertical_overflow="crop",
    )

    def give_back() -> None:
        console.show_cursor(True)
        if screen:
            console.set_alt_screen(False)

    def take() -> None:
        if screen:
            console.set_alt_screen(True)
        console.show_cursor(False)
        redraw()

    redraw = _OneAtATime(live.refresh)
    with ExitStack() as stack:
        stack.enter_context(handling({_RESIZE: lambda _number, _frame: redraw()}))
        stack.callback(_stop_drawing, live)
        live.start()
        stack.enter_context(lending(give_back, take))
        yield live
