"""`check_client` itself: deadlines, what its errors say, what is left out, and who runs what."""

import asyncio
import re
import selectors
import socket
import threading
import time

import pytest

from stereos_proto import Ack, InjectSecret, Ping, Role
from stereos_proto_io import TCP, HybridVsock, UnixSocket, blocking
from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io.conformance import _client_case
from stereos_proto_io.conformance._client_bench import run_blocking, takes
from stereos_proto_io.conformance._client_guest import ScriptedGuest, ScriptError
from stereos_proto_io.conformance._client_wire import SECRET, WireLog
from stereos_proto_io.driver import LoopClient
from stereos_proto_io.testing import ClientCase, check_client, check_loop_client, client_cases

from .harness import ASYNCIO, BLOCKING, TRIO
from .wrong_clients import Client
from .wrong_clients.verbs import KnowsTheOutcome, TellsSecrets

CASES = {case.name: case for case in client_cases()}


def run_asyncio(main):
    asyncio.run(main())


def message_of(make, name, **options):
    """What `check_client` says of a client that fails a case."""
    with pytest.raises(AssertionError) as caught:
        check_client(make, cases=[CASES[name]], **options)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ what errors say


def test_the_error_names_the_case_what_was_expected_and_the_last_messages():
    text = message_of(KnowsTheOutcome, "guest_goes_while_a_change_is_open")
    first, *rest = text.splitlines()
    assert first.startswith(
        "guest_goes_while_a_change_is_open: expected <class 'stereos_proto._errors.OutcomeUnknown'>, found <class"
    )
    assert rest[0] == "the last messages, with the faults drop@mount, close@mount:"
    assert re.search(r"host  \| Mount\(tag='t', guest_path='/workspace'", rest[1])
    assert re.search(r"guest \| Ack\(reply_to=.*mount.*, ok=True", rest[2])


def test_the_error_shows_no_secret():
    for client, name in ((TellsSecrets, "refusal"), (TellsSecrets, "a_secret_that_the_guest_quotes_is_hidden")):
        text = message_of(client, name)
        assert SECRET not in text
        assert "secret" in text


class Glues(Client):
    """It sends two lines without a newline in between."""

    def request(self, message, **options):
        self.client._stream.send(b'{"type":"ping"}{"type":')
        return self.client.request(message, **options)


def test_what_the_host_did_against_the_script_is_told():
    text = message_of(Glues, "unknown_messages_are_no_replies")
    assert "its guest: the host sent a line of " in text
    assert "that is no JSON" in text


def test_what_the_host_did_against_the_script_fails_a_case_that_was_well_otherwise():
    """The client does not notice, but the guest does."""

    async def nothing(_bench):
        """Ask nothing."""

    def script(end):
        end.line()

    with pytest.raises(AssertionError, match=r"^mute: the host ended the connection before its request came\n"):
        check_client(Client, cases=[ClientCase("mute", nothing, script=script, ends=True)])


def test_messages_are_kept_short_and_without_secrets():
    log = WireLog()
    assert str(log) == "  nothing"
    log.add(Role.HOST, InjectSecret("A", SECRET))
    log.add(Role.HOST, b'{"type":"inject_secret","payload":{"name":"A","value":"%s"}}\n' % SECRET.encode())
    log.add(Role.GUEST, Ack("inject_secret", False, f"cannot store {SECRET}"))
    log.add(Role.GUEST, b"half a line with " + SECRET.encode())
    log.add(Role.GUEST, b'{"type":"ack","payload":{"reply_to":"' + b"x" * 1000 + b'"}}\n{"type":"pong"}\n')
    log.note("the end")
    text = str(log)
    assert SECRET not in text
    assert "half a line with [redacted]" in text
    assert "(1036 characters)" in text
    assert [line.split("| ")[-1] for line in text.splitlines()][-2:] == ["Pong()", text.splitlines()[-1]]
    assert max(map(len, text.splitlines())) < 200
    for _ in range(100):
        log.add(Role.HOST, Ping())
    assert str(log).count("\n") < 20


# ------------------------------------------------------------------------------------------------------ deadlines


class HangsForEver(Client):
    """It does not even notice that the guest has gone."""

    def request(self, message, **options):
        self.never = threading.Event()
        self.never.wait()


def test_a_client_that_hangs_fails_the_case_by_name():
    start = time.monotonic()
    text = message_of(HangsForEver, "garbage", deadline=0.5)
    assert time.monotonic() - start < 10
    first, *rest = text.splitlines()
    assert first == "garbage: the case was not over after 0.5 s; the client was here:"
    assert any(re.search(r"test_check_client\.py:\d+ in request", line) for line in rest)


def test_a_task_that_hangs_fails_the_case_by_name():
    async def within(client, message, seconds):
        return await client.request(message)

    text = message_of(
        asyncio_driver.connect, "a_deadline_holds_under_a_flood", run=run_asyncio, within=within, deadline=0.5
    )
    assert text.startswith("a_deadline_holds_under_a_flood: the case was not over after 0.5 s")


class IgnoresDeadlines(Client):
    def request(self, message, **options):
        return self.client.request(message)


@pytest.mark.parametrize("name", ["late_reply_is_swallowed", "a_deadline_holds_under_a_flood"])
def test_a_case_can_run_in_the_thread_of_the_caller(name):
    """For event loops that cannot run elsewhere. The guest ends its connections when the time is up."""
    threads = []

    class Tells(Client):
        def __enter__(self):
            threads.append(threading.current_thread())
            return self

    check_client(Tells, cases=[CASES[name]], thread=False)
    assert threads == [threading.current_thread()]
    late = message_of(IgnoresDeadlines, name, thread=False, deadline=0.2)
    assert late.startswith(f"{name}: the case was not over after 0.2 s\n")


class Interrupted(BaseException):
    """What is no error of the client's, such as a KeyboardInterrupt or a skipped test."""


def test_what_is_no_error_comes_out_as_it_is():
    def run(_main):
        raise Interrupted

    with pytest.raises(Interrupted):
        check_client(Client, cases=client_cases()[:1], run=run)


# --------------------------------------------------------------------------------------------- which cases there are


def test_cases_have_names_of_their_own():
    names = [case.name for case in client_cases()]
    assert len(set(names)) == len(names) >= 60
    assert not any(case.ends for case in client_cases(ends=False))
    assert not any(case.script for case in client_cases(scripted=False))
    assert 15 < len(client_cases(ends=False)) < len(names)
    assert 20 < len(client_cases(scripted=False)) < len(names)


def test_cases_can_be_left_out_by_what_they_need():
    for words in (["notifications"], "notifications", ["together", "unix"], ["when_ready", "run"]):
        left = client_cases(without=words)
        assert left
        assert not any(case.needs & {*([words] if isinstance(words, str) else words)} for case in left)
    with pytest.raises(ValueError, match=r"^no case needs notification, telepathy$"):
        client_cases(without=["telepathy", "notification", "run"])


def test_without_a_verb_its_options_are_left_out_too():
    for case in client_cases(without=["wait_ready", "mount"]):
        assert not any(word.startswith(("wait_ready", "mount")) for word in case.needs)
    left_out = {*CASES} - {case.name for case in client_cases(without=["wait_ready.states"])}
    assert left_out == {"a_wait_is_for_the_states_that_were_named", "a_wait_is_for_no_other_state"}
    with pytest.raises(ValueError, match=r"^no case needs wait_ready\.stats$"):
        client_cases(without=["wait_ready.stats"])


def test_what_needs_redialling_is_left_out_where_the_client_cannot():
    cases = client_cases()
    assert any("when_ready" in case.needs for case in cases)
    report = check_client(Client, cases=[case for case in cases if case.name in ("empty_pipeline", "shutdown")])
    assert (set(report.passed), report.left_out) == ({"shutdown", "empty_pipeline"}, {})
    # Asked for by name, they are not left out in silence.
    text = message_of(Client, "a_guest_is_dialled_again_until_it_is_there")
    assert "the client lacks dialling until the guest is ready" in text
    assert "client_cases(without=['when_ready'])" in text


def test_what_is_left_out_by_default_is_told(monkeypatch):
    monkeypatch.setattr(
        "stereos_proto_io.conformance._client_check.client_cases",
        lambda: [CASES["refusal"], CASES["a_guest_is_dialled_again_until_it_is_there"]],
    )
    report = check_client(Client)
    assert report.passed == ("refusal",)
    assert report.left_out == {"a_guest_is_dialled_again_until_it_is_there": "`when_ready` was not given"}
    assert str(report) == (
        "left out  a_guest_is_dialled_again_until_it_is_there: `when_ready` was not given\n1 passed, 1 left out"
    )


class HasNoNews:
    """A client that lacks a verb."""

    def __init__(self, address):
        self.client = blocking.connect(address)
        self.request, self.close = self.client.request, self.client.close

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.client.close()


def test_a_verb_that_is_missing_is_told():
    text = message_of(HasNoNews, "notifications_end_with_the_guest")
    assert "the client lacks the verb `notifications`" in text
    assert "client_cases(without=['notifications'])" in text
    words = {word for case in client_cases() for word in case.needs} - {"together", "unix"}
    check_client(HasNoNews, cases=client_cases(without=words))


class HasNoBackoff(Client):
    """A client whose verb lacks an option."""

    def wait_ready(self, states=(), *, agents=(), timeout=None):
        return self.client.wait_ready(states or ["ready"], agents=agents, timeout=timeout)


def test_an_option_that_is_missing_is_told():
    text = message_of(HasNoBackoff, "a_wait_keeps_to_its_backoff")
    assert "the client lacks the option `backoff` of its verb `wait_ready`" in text
    assert "client_cases(without=['wait_ready.backoff'])" in text
    cases = client_cases(without=["wait_ready.backoff", "wait_ready.on_progress"])
    waits = [case for case in cases if any(word.startswith("wait_ready") for word in case.needs)]
    assert len(waits) > 8
    check_client(HasNoBackoff, cases=waits)


def test_what_tells_nothing_of_its_arguments_is_tried():
    assert takes(lambda **options: options, "timeout")
    assert takes(lambda *arguments: arguments, "timeout")
    assert not takes(lambda **options: options, "timeout", named=True)
    assert takes(object(), "timeout")  # it has no signature
    assert not takes(blocking.Client.ping, "states")


class Spy(Client):
    """It tells which of its verbs are used."""

    used = frozenset()

    def __getattr__(self, name):
        if not name.startswith("_"):
            type(self).used |= {name}
        return super().__getattr__(name)


@pytest.mark.parametrize("case", client_cases(without=["when_ready"]), ids=lambda case: case.name)
def test_each_case_says_which_verbs_it_needs(case):
    class Seen(Spy):
        pass

    check_client(Seen, cases=[case])
    needed = {word.partition(".")[0] for word in case.needs - _client_case.ABILITIES.keys()}
    # `aclose` is what tells asynchronous clients.
    assert Seen.used - {"request", "close", "aclose"} == needed


# ------------------------------------------------------------------------------------------------------- who runs what


class Awaited:
    """An asynchronous client for no runtime at all: its verbs are awaited, and block."""

    def __init__(self, address):
        self.client = blocking.connect(address)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        self.client.close()

    @property
    def dropped_notifications(self):
        return self.client.dropped_notifications

    def __getattr__(self, name):
        verb = getattr(self.client, name)

        async def call(*arguments, **options):
            return verb(*arguments, **options)

        return call

    async def aclose(self):
        self.client.close()

    async def notifications(self):
        try:
            for news in self.client.notifications():
                yield news
        finally:
            CLOSED.append(self)


CLOSED = []


def test_a_runtime_of_its_own_brings_a_way_to_run_callers_at_once():
    text = message_of(Awaited, "many_callers", run=run_blocking)
    assert "give `together`, or leave such cases out with client_cases(without=['together'])" in text

    def together(functions):
        threads = [threading.Thread(target=run_blocking, args=(function,)) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    cases = client_cases(without=["when_ready"])
    report = check_client(Awaited, run=run_blocking, together=together, cases=cases)
    assert len(report.passed) == len(cases)


def test_generators_of_notifications_are_closed():
    del CLOSED[:]
    check_client(Awaited, run=run_blocking, cases=[CASES["notifications_do_not_shift_replies"]])
    assert len(CLOSED) == 1


@pytest.mark.parametrize("driver", [BLOCKING, ASYNCIO, TRIO], ids=str)
def test_an_assertion_of_one_caller_fails_the_case(driver):
    """What a case expects of one of several callers counts, too."""

    async def refuse(bench):
        await bench.together(lambda: bench.is_refused("a"), lambda: bench.gives_up(Ping()))

    case = ClientCase("two_callers", refuse, needs=frozenset({"together"}))
    run = None if driver is BLOCKING else driver.run
    with pytest.raises(AssertionError, match=r"^two_callers: ping with a deadline: expected TimeoutError, found Pong"):
        check_client(driver.module.connect, run=run, within=driver.within, cases=[case])


def test_an_asynchronous_client_needs_a_way_to_run(tmp_path):
    [first, *_] = client_cases()
    for make in (asynchronous, asyncio_driver.connect, TRIO.module.connect):
        with pytest.raises(TypeError, match=r"^the client is awaited: `check_client` needs `run`, such as "):
            check_client(make, cases=[first])
    with pytest.raises(TypeError, match=r"^the client is awaited: `check_client` needs `run`, such as "):
        check_client(blocking.connect, cases=[CASES[REDIALLED]], when_ready=lambda address, _: asynchronous(address))
    # An awaitable will do, and so will the context manager that it is.
    for make in (asyncio_driver.connect, awaited):
        check_client(make, run=run_asyncio, cases=[first], address=UnixSocket(tmp_path / "g"))


REDIALLED = "a_guest_is_dialled_again_until_it_is_there"


def test_a_client_that_awaits_unseen_needs_a_way_to_run():
    """What makes it does not tell; its first verb does."""

    class Sleeps(Client):
        async def ping(self):
            await asyncio.sleep(0)

    with pytest.raises(TypeError, match=r"^the client is awaited: `check_client` needs `run`, such as "):
        check_client(Sleeps, cases=client_cases()[:1])


#: Cases that run, give up, and have several callers.
SOME = [CASES["refusal"], CASES["a_deadline_holds_under_a_flood"], CASES["many_callers"]]


@pytest.mark.parametrize(("driver", "run"), [(ASYNCIO, asyncio.run), (TRIO, TRIO.run)], ids=["asyncio", "trio"])
def test_what_runs_a_coroutine_or_a_function_will_do(driver, run):
    """Nothing else is needed: how requests are given up is known for both runtimes."""
    assert len(check_client(driver.module.connect, run=run, cases=SOME).passed) == len(SOME)


def test_uvloop_will_do_too():
    uvloop = pytest.importorskip("uvloop")
    assert len(check_client(asyncio_driver.connect, run=uvloop.run, cases=SOME).passed) == len(SOME)


def test_a_request_with_a_timeout_of_its_own_is_given_up_by_it():
    timeouts = []

    class Timed(PlainAsync):
        async def request(self, message, *, timeout=None):  # noqa: ASYNC109  (the client of the test has one)
            timeouts.append(timeout)
            async with asyncio.timeout(timeout):
                return await self.client.request(message)

    async def make(address):
        return Timed(await asyncio_driver.connect(address))

    check_client(make, run=asyncio.run, cases=[CASES["a_deadline_holds_under_a_flood"]])
    assert timeouts == [0.3]


def run_nothing(_main):
    """It does not call the function, so no case would fail."""


def run_half(main):
    """It makes a coroutine and does not run it."""
    main().close()


@pytest.mark.parametrize("run", [run_nothing, run_half, lambda main: asyncio.Runner().run(main)])
@pytest.mark.parametrize("make", [blocking.connect, asyncio_driver.connect])
def test_what_runs_nothing_is_no_way_to_run(make, run):
    text = r"^`run` did not run the coroutine function that it was given: .*`lambda main: asyncio\.run\(main\(\)\)` do$"
    with pytest.raises(TypeError, match=text):
        check_client(make, run=run, cases=client_cases()[:1])


def test_callers_that_were_not_run_are_noticed():
    """Several cases expect that nothing comes of their callers."""
    for together in (lambda _functions: None, lambda functions: functions[0]()):
        with pytest.raises(
            TypeError, match=r"^`together` returned before all functions that it was given had returned$"
        ):
            check_client(Client, together=together, cases=[CASES["many_callers"]])


class TakesNoTimeout(Client):
    def request(self, message):
        return self.client.request(message)


class AwaitedWithoutTimeout:
    """An asynchronous client for a runtime that nobody knows."""

    def __init__(self, address):
        self.client = blocking.connect(address)

    async def request(self, message):
        return self.client.request(message)

    async def aclose(self):
        self.client.close()


@pytest.mark.parametrize(("make", "run"), [(TakesNoTimeout, None), (AwaitedWithoutTimeout, run_blocking)])
def test_a_client_without_timeouts_needs_a_way_to_give_up(make, run):
    """At once, and not in the first case that gives up."""
    text = (
        r"^the client's `request` takes no `timeout`: `check_client` needs `within\(client, message, seconds\)`, which "
    )
    with pytest.raises(TypeError, match=text):
        check_client(make, run=run, cases=[CASES["garbage"]])


class Wrapped:
    """An asynchronous context manager of a client that blocks."""

    def __init__(self, address):
        self.client = blocking.connect(address)

    async def __aenter__(self):
        return self.client

    async def __aexit__(self, *exc):
        self.client.close()


def test_what_is_awaited_and_never_waits_needs_no_way_to_run():
    check_client(Wrapped, cases=SOME)


def test_an_error_of_a_client_that_blocks_is_no_missing_argument():
    class Breaks(Client):
        def request(self, message, **options):
            raise RuntimeError("broken")

    assert message_of(Breaks, "garbage").startswith("garbage: RuntimeError: broken\n")


async def asynchronous(_address):
    await asyncio.sleep(0)


async def awaited(address):
    return _Sync(await asyncio_driver.connect(address))


class _Sync:
    """A client that is closed without being awaited."""

    def __init__(self, client):
        self.client = client

    def __enter__(self):
        return self.client

    def __exit__(self, *exc):
        self.client._hang_up()


# ------------------------------------------------------------------------------------------------ where guests are


def test_the_guest_is_where_it_was_asked_to_be(tmp_path):
    seen = []

    def make(address):
        seen.append(address)
        return Client(address)

    names = ("refusal", "a_reply_that_was_not_asked_for_is_no_reply", "nothing_is_sent_after_a_write_that_failed")
    for address in (None, UnixSocket(tmp_path / "guest"), HybridVsock(tmp_path / "muxer")):
        check_client(make, cases=[CASES[name] for name in names], address=address)
    for address in seen[:2]:
        assert isinstance(address, TCP)
        assert address.port
    # It can be shown on a unix socket alone, and has one of its own where the guest is to be elsewhere.
    assert isinstance(seen[2], UnixSocket)
    assert seen[3:6] == [UnixSocket(tmp_path / "guest")] * 3
    assert seen[6:8] == [HybridVsock(tmp_path / "muxer")] * 2
    assert isinstance(seen[8], UnixSocket)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- guests with a script


def talks(end):
    while True:
        end.send(b"x" * 100_000)


def reads(end):
    end.line()


def test_a_scripted_guest_that_is_closed_listens_no_more():
    """No thread is left that polls the listener: where shutting it down wakes none, its port would stay taken."""
    guest = ScriptedGuest(TCP("127.0.0.1", 0), lambda end: end.answer_rest(), WireLog())
    guest.close()
    assert not guest._accepting.is_alive()
    guest.close()


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (talks, "the host did not read for 0.1 s while the guest was talking"),
        (reads, "nothing came from the host for 0.1 s"),
    ],
)
def test_a_script_waits_no_longer_than_it_must(script, text):
    guest = ScriptedGuest(TCP("127.0.0.1", 0), script, WireLog(), patience=0.1)
    with (
        guest,
        socket.create_connection((guest.address.host, guest.address.port)),
        pytest.raises(ScriptError, match=f"^{text}$"),
    ):
        guest.check()


def breaks(end):
    end.line()
    raise LookupError(SECRET)


@pytest.mark.parametrize(
    ("script", "said", "text"),
    [
        (reads, b"nonsense\n", "the host sent a line of 8 bytes that is no JSON"),
        (reads, b"[" * 100_000 + b"\n", "the host sent a line of 100000 bytes that is no JSON"),
        (reads, b"5\n", "the host sent a line of 1 bytes that is no message"),
        (reads, b'{"type":[]}\n', "the host sent a line of 11 bytes that is no message"),
        (breaks, b'{"type":"x"}\n', r"the script of the guest broke: LookupError: \[redacted\]"),
    ],
)
def test_whatever_a_client_sends_is_told(script, said, text):
    """The thread of the script does not end with an error that nobody sees."""
    with ScriptedGuest(TCP("127.0.0.1", 0), script, WireLog()) as guest:
        with socket.create_connection((guest.address.host, guest.address.port)) as host:
            host.sendall(said)
            host.recv(1)
        with pytest.raises(ScriptError, match=f"^{text}$"):
            guest.check()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (b"PING\n", "the host began without a CONNECT"),
        (b"", "the host ended the connection before its CONNECT came"),
    ],
)
def test_a_muxer_wants_a_connect(said, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ScriptedGuest(HybridVsock("muxer"), reads, WireLog()) as guest:
        with socket.socket(socket.AF_UNIX) as host:
            host.connect("muxer")
            host.sendall(said)
            host.shutdown(socket.SHUT_WR)
            host.recv(1)
        with pytest.raises(ScriptError, match=f"^{text}$"):
            guest.check()


# ------------------------------------------------------------------------------------------- what a client may be


class Plain:
    """A client that is no context manager: `check_client` closes it."""

    def __init__(self, address):
        self.closed = 0
        self.client = blocking.connect(address)
        MADE.append(self)

    def __getattr__(self, name):
        return getattr(self.client, name)

    def close(self):
        self.closed += 1
        self.client.close()


class PlainAsync:
    def __init__(self, client):
        self.closed = 0
        self.client = client
        MADE.append(self)

    def __getattr__(self, name):
        return getattr(self.client, name)

    async def aclose(self):
        self.closed += 1
        await self.client.aclose()


MADE = []


def test_a_client_that_is_no_context_manager():
    MADE.clear()
    check_client(Plain, cases=[CASES["refusal"], CASES["own_end"]])
    assert [client.closed > 0 for client in MADE] == [True, True]


def test_an_awaited_client_that_is_no_context_manager():
    async def make(address):
        sock = socket.create_connection((address.host, address.port))
        return PlainAsync(await asyncio_driver.Client.attach(sock))

    MADE.clear()
    check_client(make, run=run_asyncio, cases=[CASES["own_end"]])
    assert [client.closed > 0 for client in MADE] == [True]


# ------------------------------------------------------------------------------------------------ loops of callbacks


class Polled(LoopClient):
    """A client in a loop that polls, as that of a game does."""

    def __init__(self, address):
        super().__init__(address)
        self.selector = selectors.DefaultSelector()
        self.soon = []
        self.due = None

    def watch(self, stream, mask):
        if stream in self.selector.get_map():
            self.selector.unregister(stream)
        if mask:
            self.selector.register(stream, mask)

    def set_timer(self, seconds):
        self.due = None if seconds is None else time.monotonic() + seconds

    def call_soon(self, function):
        self.soon.append(function)

    def frame(self):
        soon, self.soon = self.soon, []
        for function in soon:
            function()
        for key, mask in self.selector.select(0):
            self.on_ready(key.fileobj, mask)
        if self.due is not None and self.due <= time.monotonic():
            self.due = None
            self.on_timer()


class Deaf(Polled):
    """It does not set its timer, so no deadline holds."""

    def set_timer(self, seconds):
        self.due = None


def frames(kind):
    """The two arguments of `check_loop_client` for clients of this kind."""
    clients = []

    def make(address):
        clients.append(kind(address))
        return clients[-1]

    def turn(seconds):
        for client in clients:
            client.frame()
        time.sleep(min(seconds, 1 / 250))

    return make, turn


def test_a_loop_of_callbacks_is_put_through_all_cases():
    assert check_loop_client(*frames(Polled)).passed == tuple(CASES)


def test_a_loop_of_callbacks_that_forgets_its_timer_is_found():
    with pytest.raises(AssertionError, match="late_reply_is_swallowed"):
        check_loop_client(*frames(Deaf), cases=[CASES["late_reply_is_swallowed"]], deadline=2)
