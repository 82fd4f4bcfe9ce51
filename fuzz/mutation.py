"""Change the library at one place at a time, and see whether a test fails: `python -m fuzz.mutation [MODULE ...]`.

`ROOMS` lists the modules and the test files for each. First every test file runs once, to learn which tests execute
which lines, and how long each takes. Then, for each mutant (`mutants.py`), the tests that execute the changed statement
run, the quickest first, until one fails: the mutant is killed. For a statement that is executed only on import, all
tests of its module run. A mutant that no test kills has survived. Those are printed and kept in `survivors.json`, where
a reason is written beside each. A module that was asked as it is now is not asked again; `--survivors` asks those of
its survivors again that have no reason, after tests were added.

Each mutant runs in a process of its own, forked from one that has pytest and the dependencies loaded already, with the
library in a changed copy. Since a mutant may do anything, an audit hook keeps it and its children from AF_VSOCK, from
signals to processes of others, and from removing files outside the temporary folders.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

import coverage
import hypothesis
import pytest

from . import mutants, survivors

ROOT: Final = Path(__file__).resolve().parent.parent
SOURCE: Final = ROOT / "src"

#: The test files that run for a module of the core after its own test file.
_MORE: Final = (
    "core/test_vectors.py",
    *(f"project/test_fuzz_corpus.py::{name}" for name in ("test_kept_corpus", "test_what_was_once_found")),
    "core/test_codec.py",
    "project/test_secrets.py",
)
#: Explorations of a module. Those of their tests are left out that plant faults: a mutant has no place for them.
_EXPLORED: Final = {
    "_guest_session": ("explore/test_guest_session.py::test_nothing_that_can_happen_breaks_the_specification",),
    "_host_session": ("explore/test_host_session.py::test_nothing_that_can_happen_breaks_the_specification",),
    "_turns": ("explore/test_turns.py::test_no_schedule_breaks_the_specification",),
}
_CORE: Final = (
    *("_framing", "_state", "_connection", "_preamble", "_registry", "_events", "_redact"),
    *("_codec/__init__", "_codec/canonical", "_codec/tolerant", "_codec/json"),
    *("_messages", "_errors", "_frames", "_timeouts", "_provision", "_toml"),
    *("_jcard_fields", "_jcard_agents", "_jcard_text", "_jcard_plan", "_jcard"),
    *("dialogues", "_call", "_host_session", "_guest_session", "_turns", "_mailbox", "_running", "_host_client"),
)
_CLIENTS: Final = tuple(
    f"client/test_{name}.py"
    for name in (
        *("addresses", "attach", "backpressure", "cancel", "checkpoints", "close", "deadline", "device"),
        *("dial", "dial_given_up", "dialling_race", "errors", "fd_client", "files", "guest_goes"),
        *("handing_over", "hostile", "logging", "notifications", "other_loops", "poll_client", "ready"),
        *("resolve", "resync", "runners", "session_protocol", "sharing", "stream_transport", "streams"),
        *("secrets", "sync_client", "timeouts", "trio_streams", "verbs", "asyncio_transport"),
    )
)
_GUESTS: Final = tuple(
    f"guest/test_{name}.py"
    for name in (
        *("agents", "asyncio_connection", "blocking_connection", "blocking_transport", "conformance", "faults"),
        *("faulty_session", "hostile_hosts", "late", "listen", "loop_connection", "reboots", "server_asyncio"),
        *("server_threads", "servers", "simulator", "trio_connection"),
    )
)


#: Per cent of the mutants of a package that have to be killed.
SHARES: Final = {"stereos_proto/": 95, "stereos_proto_io/": 90}


class Room(NamedTuple):
    """Modules below `src`, and the test files below `tests` that are asked about them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


def _tests_of(module: str) -> tuple[str, ...]:
    """The test files of a module of the core, its own first."""
    parts = [part.strip("_") for part in module.removesuffix("/__init__").split("/")]
    return tuple(dict.fromkeys((f"core/test_{'_'.join(parts)}.py", *_EXPLORED.get(module, ()), *_MORE)))


#: `guest/effects` and `guest/__main__` are left out: a mutant of theirs could change the machine it runs on.
ROOMS: Final = (
    *(Room((f"stereos_proto/{name}",), _tests_of(name)) for name in _CORE),
    Room(("stereos_proto_io/driver/_green_client",), ("client/test_green.py",)),
    Room(
        (
            "stereos_proto_io/addresses",
            *(f"stereos_proto_io/asyncio/_{name}" for name in ("dial", "transport")),
            *(f"stereos_proto_io/blocking/_{name}" for name in ("dial", "transport")),
            "stereos_proto_io/trio/_transport",
            *(f"stereos_proto_io/driver/_{name}_client" for name in ("async", "fd", "loop", "poll", "sync")),
            *(f"stereos_proto_io/driver/_{name}" for name in ("async_dial", "sync_dial", "dialling", "sync_runner")),
            *(f"stereos_proto_io/driver/_{name}" for name in ("device", "device_transport", "outcomes", "streams")),
            *(f"stereos_proto_io/driver/_{name}" for name in ("asyncio_reading", "verbs")),
        ),
        (*_CLIENTS, "guest/test_device_transport.py", "project/test_secrets.py"),
    ),
    Room(
        (
            *(f"stereos_proto_io/guest/_{name}" for name in ("agents", "faulty_session", "go", "listen", "server")),
            *(f"stereos_proto_io/guest/_{name}_connection" for name in ("asyncio", "blocking", "trio")),
            "stereos_proto_io/guest/_blocking_transport",
            *(f"stereos_proto_io/guest/{name}" for name in ("asyncio", "blocking", "trio", "faults", "simulator")),
        ),
        (*_GUESTS, "project/test_old_names.py"),
    ),
    Room(("stereos_proto_io/cli/_redact",), ("cli/test_redact.py",)),
)

#: Assertions are not rewritten, which takes longer than most tests: how they fail is not shown.
PYTEST: Final = (
    *("-x", "-q", "-m", "not vm", "--assert=plain", "--hypothesis-profile", "mutation"),
    *("-p", "no:xdist", "-p", "no:anyio", "-p", "no:cacheprovider"),
)
#: Seconds that the tests of a mutant may take as they are, after which no more of them are asked.
LONGEST: Final = 30
#: The same for a survivor that is asked again: a slow machine leaves out tests that would kill it.
LONGEST_AGAIN: Final = 150
#: Seconds of CPU time beyond those, after which a mutant is taken to hang and counts as killed. CPU time, because the
#: machine may be busy.
PATIENCE: Final = 10
#: Seconds of the clock after which a test waits for ever, which counts as killed, beside a multiple of what it takes.
WAIT: Final = 15
TIMES: Final = 10
#: How often a test file is traced before it counts as one that fails as it is.
TRACES: Final = 3

_MOMENT: Final = struct.Struct("d")

_SITE: Final = """
import os, sys, tempfile

def _audit(event, arguments, session=os.getsid(0), folder=tempfile.gettempdir() + "/"):
    if event == "socket.__new__" and arguments[1] == 40:
        raise OSError("AF_VSOCK is not for mutants")
    if event == "os.killpg" or (event == "os.kill" and arguments[0] <= 0):
        raise OSError("a mutant signals a group")
    if event == "os.kill" and os.getsid(arguments[0]) != session:
        raise OSError("a mutant signals a process of another session")
    if event in ("os.remove", "os.rmdir", "os.rename") and arguments[-1] == -1:
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(folder):
            raise OSError("a mutant removes a file that is not its own")

sys.addaudithook(_audit)
"""


#: The context of coverage outside of any test: while modules are imported, and tests are collected.
OUTSIDE: Final = ""


class Trace(NamedTuple):
    """What one test file does with the library as it is."""

    #: The tests that execute a line, by module (a path below `src` with .py) and line.
    lines: dict[str, dict[int, set[str]]]
    #: How long each test takes, in seconds.
    seconds: dict[str, float]


class _Tracing:
    """A plugin of pytest that gives each test a coverage context of its own, and times it."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        start = time.monotonic()
        yield
        self.seconds[item.nodeid] = time.monotonic() - start


class _Limit:
    """The deadline that a process sets for itself, by `time.monotonic`, in memory that it shares with its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MOMENT.size)

    def begin(self, seconds: float) -> None:
        self._memory[:] = _MOMENT.pack(time.monotonic() + seconds)

    def is_over(self) -> bool:
        return time.monotonic() > _MOMENT.unpack(self._memory[:])[0]


class _Chosen:
    """A plugin of pytest that runs the tests it is given and no others, in their order, each within a limit."""

    def __init__(self, tests: dict[str, float], limit: _Limit) -> None:
        self.tests = tests
        self.limit = limit
        self.places = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.limit.begin(WAIT + TIMES * self.tests[item.nodeid])
        yield
        self.limit.begin(WAIT)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.places), key=lambda item: self.places[item.nodeid]
        )


def child(source: Path, work: Any, limit: _Limit, patience: int) -> int:
    """Run `work` in a process of its own that imports the library from `source`; return how it ended, 0 for well.

    It may take `patience` seconds of CPU time.
    """
    number = os.fork()
    if number == 0:
        status = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (patience, patience))
            sys.path.insert(0, str(source))
            sys.dont_write_bytecode = True
            os.environ["PYTHONPATH"] = str(source)
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            exec(_SITE, {})
            with (
                (source.parent / "output.txt").open("w") as output,
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(output),
            ):
                status = int(work())
        except BaseException as exc:  # noqa: BLE001  (whatever it is, it is shown, and this process ends)
            print(*traceback.format_exception_only(exc), sep="", end="", file=sys.__stderr__)
        finally:
            os._exit(status)
    while not limit.is_over():
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        status = -1
    # Also what the tests have started and a mutant has not ended.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
    if status == -1:
        os.waitpid(number, 0)
    return status


def trace(test: str, source: Path) -> Trace:
    """Run a test file once. Raises RuntimeError when it fails."""
    data = source.parent / "coverage"
    times = source.parent / "times"

    def work() -> int:
        measured = coverage.Coverage(
            data_file=str(data), config_file=False, include=[f"{source}/*"], concurrency=["thread"]
        )
        tracing = _Tracing(measured)
        measured.start()
        status = pytest.main([*PYTEST, f"--basetemp={source.parent}/base", f"tests/{test}"], plugins=[tracing])
        measured.stop()
        measured.save()
        times.write_text("".join(f"{seconds}\t{name}\n" for name, seconds in tracing.seconds.items()))
        return status

    data.unlink(missing_ok=True)
    limit = _Limit()
    limit.begin(3600)
    if child(source, work, limit, 3600):
        raise RuntimeError(f"tests/{test} fails as it is:\n{(source.parent / 'output.txt').read_text()[-3000:]}")
    read = coverage.CoverageData(str(data))
    read.read()
    lines: dict[str, dict[int, set[str]]] = {}
    for file in read.measured_files():
        contexts = read.contexts_by_lineno(file)
        lines[str(Path(file).relative_to(source))] = {line: {*names} for line, names in contexts.items()}
    rows = (row.split("\t", 1) for row in times.read_text().splitlines())
    return Trace(lines, {name: float(seconds) for seconds, name in rows})


def asked(traces: Sequence[Trace], module: str, mutant: mutants.Mutant, longest: int) -> dict[str, float]:
    """The tests to ask about a mutant, file by file, with the seconds of each: `longest` seconds of them at most."""
    # The files that execute most of the module come first, and in a file the quickest tests.
    traces = sorted(traces, key=lambda traced: -sum(map(len, traced.lines.get(f"{module}.py", {}).values())))
    seconds = {
        name: took for traced in traces for name, took in sorted(traced.seconds.items(), key=lambda item: item[::-1])
    }
    executing: set[str] = set()
    # Some modules are imported when the first test needs them, which says nothing about that test.
    if not mutant.on_import:
        lines = range(mutant.first, mutant.last + 1)
        executing = executing.union(
            *(traced.lines.get(f"{module}.py", {}).get(line, ()) for traced in traces for line in lines)
        )
    # Any test may also depend on code that runs outside of any test, such as a function that makes a class.
    everywhere = not executing or OUTSIDE in executing
    asked_of = seconds if everywhere else executing.intersection(seconds) or seconds
    names = sorted(asked_of, key=lambda name: (name not in executing, seconds[name]))
    total = accumulate(map(seconds.__getitem__, names))
    chosen = {name for name, until in zip(names, total, strict=True) if until < longest} or {*names[:1]}
    return {name: took for name, took in seconds.items() if name in chosen}


class Task(NamedTuple):
    """One mutant to be asked."""

    module: str
    mutant: mutants.Mutant
    tests: dict[str, float]
    #: Seconds of CPU time after which it is taken to hang.
    patience: int


_copy: Path
#: How many mutants of a module a test file has killed.
_kills: Counter[tuple[str, str]] = Counter()


def set_up(folder: str) -> None:
    """Give a process that asks mutants a copy of the library of its own."""
    global _copy  # noqa: PLW0603  (one for each process)
    _copy = Path(tempfile.mkdtemp(dir=folder)) / "src"
    copy_source(_copy)


def copy_source(target: Path) -> None:
    """Copy the library, with what keeps a mutant's children from harm, and compile it."""
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "sitecustomize.py").write_text(_SITE)
    compileall.compile_dir(target, quiet=1)


def survives(task: Task) -> tuple[Task, bool]:
    """Whether no test fails for a mutant."""
    path = _copy / f"{task.module}.py"
    original, times = path.read_bytes(), path.stat()
    path.write_text(task.mutant.source, encoding="utf-8")
    files = [*dict.fromkeys(name.split("::")[0] for name in task.tests)]
    # File by file: loading them all takes longer than the tests. Those come first that have killed the most.
    files.sort(key=lambda file: -_kills[task.module, file])
    asking = _copy.parent / "asking"
    limit = _Limit()
    limit.begin(2 * WAIT)

    def work() -> int:
        for file in files:
            asking.write_text(file)
            # Loading a file takes seconds on a busy machine.
            limit.begin(2 * WAIT)
            options = [*PYTEST, f"--basetemp={_copy.parent}/base", file]
            if status := pytest.main(options, plugins=[_Chosen(task.tests, limit)]):
                return status
        return 0

    try:
        if child(_copy, work, limit, task.patience) == 0:
            return task, True
        _kills[task.module, asking.read_text()] += 1
        return task, False
    finally:
        path.write_bytes(original)
        # By its time, what was compiled of it is known to be of this file and not of the mutant.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def prepare() -> None:
    """The same examples each time, and no time for making a failure small; and load what all tests import."""
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=50,
        phases=phases,
        suppress_health_check=[*hypothesis.HealthCheck],
    )
    for name in (
        *("asyncio", "attrs", "cattrs", "hypothesis.strategies", "msgspec", "ssl", "tomli_w", "tomllib"),
        *("trio.testing", "uvloop"),
    ):
        __import__(name)
    compileall.compile_dir(ROOT / "tests", quiet=1)


def trace_in_worker(test: str) -> tuple[str, Trace]:
    """Trace a test file in a process that asks mutants; again where one of its tests is too slow for a busy machine."""
    for _ in range(TRACES - 1):
        with contextlib.suppress(RuntimeError):
            return test, trace(test, _copy)
    return test, trace(test, _copy)


class Asking:
    """Processes that ask mutants, and what the test files do with the library as it is."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool
        #: Each test file that was traced so far.
        self.traces: dict[str, Trace] = {}

    def survivors(self, module: str, tests: Sequence[str], asked_for: Collection[str] | None) -> tuple[int, list[str]]:
        """Ask the mutants of a module, or those named; return how many mutants it has, and which of those live."""
        self.traces |= self.pool.map(trace_in_worker, [test for test in tests if test not in self.traces])
        traces = [self.traces[test] for test in tests]
        made = list(mutants.mutants((SOURCE / f"{module}.py").read_text(encoding="utf-8")))
        longest = LONGEST if asked_for is None else LONGEST_AGAIN
        tasks = [
            Task(module, mutant, asked(traces, module, mutant, longest), longest + PATIENCE)
            for mutant in made
            if asked_for is None or mutant.name in asked_for
        ]
        alive = []
        for task, lives in self.pool.map(survives, tasks):
            if lives:
                alive.append(task.mutant.name)
                print(f"  survived  {module}:{task.mutant.first} {task.mutant.name}", flush=True)
        return len(made), alive


def main() -> int:
    """Print the survivors and the figures; return 1 when something is wrong with them."""
    parser = argparse.ArgumentParser(prog="fuzz.mutation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", help="below src, without .py, or the start of such names; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--survivors", action="store_true", help="ask those again that live for no reason")
    what.add_argument("--table", action="store_true", help="ask nothing: print what is known of the code as it is")
    options = parser.parse_args()
    rooms = {module: room for room in ROOMS for module in room.modules}
    wanted = [module for module in rooms if not options.modules or module.startswith(tuple(options.modules))]
    if not options.table:
        ask(wanted, rooms, options.jobs, again=options.survivors)
    rows = survivors.of_this_code(wanted)
    print(*survivors.table(rows), sep="\n")
    wrong = [*wrongs(rows)]
    print(*wrong, sep="\n")
    return int(bool(wrong))


def ask(wanted: Sequence[str], rooms: Mapping[str, Room], jobs: int, *, again: bool) -> None:
    """Ask the modules that were not asked as they are now; with `again`, also survivors that have no reason yet."""
    os.chdir(ROOT)
    prepare()
    known = survivors.of_this_code(wanted)
    with (
        tempfile.TemporaryDirectory() as folder,
        # Not `multiprocessing.Pool`: its workers are daemons, and the tests below them may start no process pools.
        ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), set_up, (folder,)) as pool,
    ):
        asking = Asking(pool)
        for module in wanted:
            row = known.get(module)
            explained = [name for name, why in row.alive.items() if why] if row else []
            unexplained = [name for name, why in row.alive.items() if not why] if row else None
            if row and not (again and unexplained):
                continue
            code = survivors.digest(module)
            made, alive = asking.survivors(module, rooms[module].tests, unexplained)
            row = survivors.record(module, code, made, [*explained, *alive])
            print(f"{module}: {len(row.alive)} of {row.mutants} live", flush=True)


def wrongs(rows: Mapping[str, survivors.Row]) -> Iterator[str]:
    """What is wrong with the figures of modules."""
    for module, row in rows.items():
        yield from (f"no reason is given for {module}: {name}" for name, why in row.alive.items() if not why)
    for package, least in SHARES.items():
        of_package = [row for module, row in rows.items() if module.startswith(package)]
        if of_package and (share := survivors.share(of_package)) < least:
            yield f"{share:.1f} % of the mutants of {package} are killed, and {least} % have to be"


if __name__ == "__main__":
    sys.exit(main())
