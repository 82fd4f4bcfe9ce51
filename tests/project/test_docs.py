"""The pages and the README are held to the code: snippets run, recipes work, links lead somewhere, names exist."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import os
import pkgutil
import re
import select
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

import stereos_proto
import vectors
from stereos_proto import (
    DEFAULT_TIMEOUT,
    GUEST_CID,
    GUEST_PORT,
    MAX_LINE_SIZE,
    MAX_PENDING,
    ConnectionLost,
    JcardError,
    LifecycleState,
    OutcomeUnknown,
    State,
    StereosError,
    load_jcard,
)
from stereos_proto._constants import MAX_HYBRID_VSOCK_ANSWER, MAX_KEPT_NESTING, MAX_NESTING
from stereos_proto._registry import REGISTRY
from stereos_proto._state import TRANSITIONS, Happening
from stereos_proto.dialogues import Backoff
from stereos_proto_io._files import MAX_PROMPT_SIZE
from stereos_proto_io.addresses import HYBRID_VSOCK_PATIENCE, RESYNC_MAX_PATIENCE, RESYNC_PATIENCE, TCP
from stereos_proto_io.driver import READY_TIMEOUT, PollClient
from stereos_proto_io.guest import GuestSimulator
from stereos_proto_io.guest.faults import fault_table
from stereos_proto_io.testing import simulated_guest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "_generated"} & set(path.parts))
#: Seconds after which a command counts as stuck.
PATIENCE = 400
#: Characters that a line of code may have before it has to be scrolled on a page that is 1280 pixels wide.
WIDTH = 88
FENCE = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: What is shown and not run, because it wants a hypervisor, a network, or a second terminal.
UNTRIED = (
    "cloud-hypervisor ",
    "curl --unix-socket ",
    "krunkit ",
    "pip install ",
    "qemu-system-x86_64 ",
    "stereosctl simulate ",
    "vhost-device-vsock ",
)


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module", autouse=True)
def _docs_modules():
    """What generates parts of the pages lies beside them."""
    folders = [str(DOCS), str(ROOT / "tools")]
    sys.path[:0] = folders
    yield
    for folder in folders:
        sys.path.remove(folder)


# ------------------------------------------------------------------------------------------------- snippets


def matches(expected, said):
    """Whether `said` is what was expected, where "..." stands for anything."""
    pattern = ".*".join(map(re.escape, expected.strip().split("...")))
    return re.fullmatch(pattern, said.strip(), re.DOTALL) is not None


def run_python(text, namespace, where):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(text, where, "exec"), namespace)
    return said.getvalue()


def run_console(text, env):
    """Run what follows each `$ `, and compare what it says with the lines up to the next, if there are any."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        # A line that begins like this goes on with the command.
        command, _, expected = part.replace("\n> ", " ").partition("\n")
        if command.startswith("make "):
            makefiles = "".join(path.read_text() for path in (ROOT / "Makefile", *ROOT.glob("*/targets.mk")))
            assert re.search(rf"^{command.split()[1]}:", makefiles, re.MULTILINE), command
        elif command.startswith("pip install "):
            extras = re.findall(r"\[(.*?)\]", command)
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(",".join(extras).split(",")) <= set(known), command
        else:
            done = subprocess.run(
                ["bash", "-c", command], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert not expected.strip() or matches(expected, done.stdout), f"{command}\n{done.stdout}"


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_snippets(page, tmp_path, monkeypatch):
    blocks = list(FENCE.finditer(page.read_text()))
    (tmp_path / "jcard.toml").write_text(
        '[secrets]\nAPI_KEY = "${API_KEY}"\n\n[[agents]]\nname = "coder"\nharness = "claude-code"\n'
    )
    monkeypatch.chdir(tmp_path)
    with simulated_guest(poll_interval=0.05) as guest:
        port = guest.address.port
        machine = tmp_path / "vms" / "dev"
        machine.mkdir(parents=True)
        (machine / "state.json").write_text(json.dumps({"name": "dev", "backend": "qemu", "vsock_port": port}))
        env = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MB_CONFIG_DIR": str(tmp_path),
            "API_KEY": "key-123456",
        }
        namespace = {"__name__": "snippet"}
        said = None
        for block in blocks:
            language, text = block.groups()
            text = text.replace("41024", str(port)).replace("127.0.0.1:1024", f"127.0.0.1:{port}")
            text = text.replace('"127.0.0.1", 1024', f'"127.0.0.1", {port}')
            where = f"{name_of(page)}:{page.read_text()[: block.start()].count(chr(10)) + 1}"
            if language == "python":
                # Those of the README are for being copied one by one; those of a page belong together.
                said = run_python(text, {"__name__": "snippet"} if page == README else namespace, where)
                continue
            if language == "text" and said is not None:
                assert matches(text, said), f"{where}: it says\n{said}"
            elif language == "console":
                run_console(text, env)
            elif language == "sh":
                assert text.startswith(UNTRIED), f"{where}: a command that nobody has tried"
            said = None


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_code_is_no_wider_than_a_page(page):
    blocks = re.findall(r"^(```+)[^{\n].*?\n(.*?)^\1$", page.read_text(), re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"^(```+)\{code-block\}.*?\n(.*?)^\1$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert [line for _, body in blocks for line in body.splitlines() if len(line) > WIDTH] == []


def test_the_turn_that_is_shown_tells_each_stream_and_pulls_before_it_expires():
    """What a reader copies is right in a turn in which nothing is ready, and in one in which two streams are."""
    text = next(body for _, body in FENCE.findall((DOCS / "integrate.md").read_text()) if "def state_of" in body)
    turn = []

    class Spy(PollClient):
        def ready(self, stream, mask):
            turn.append(stream)
            super().ready(stream, mask)

        def events(self):
            turn.append("events")
            return super().events()

        def expire(self):
            assert turn[-1] == "events"
            super().expire()

    def spy_on_select(readers, writers, _others, _seconds):
        turns.append(tuple(each for each in turn if each != "events"))
        ready = select.select(readers, writers, [], 0.02) if len(turns) > 1 else ([], [], [])
        wanted.append(tuple({*ready[0], *ready[1]}))
        turn.clear()
        return ready

    turns, wanted = [], []
    namespace = {"__name__": "snippet"}
    run_python(text.replace("simulated_guest()", "simulated_guest(faults=['late:0.2s@get_health'])"), namespace, "turn")
    namespace.update(PollClient=Spy, select=SimpleNamespace(select=spy_on_select))
    with simulated_guest(faults=["late:0.2s@get_health"]) as guest, contextlib.redirect_stdout(io.StringIO()):
        namespace["state_of"](guest.address)
    assert turns[1:] == wanted[: len(turns) - 1]
    assert () in wanted[1:]


def test_every_example_of_a_loop_is_as_short_as_is_said():
    import generate

    sizes = {size.name: size for size in generate.sizes()}
    files = [*(ROOT / "examples").glob("loop_*.py"), *(ROOT / "examples").glob("guest_*.py")]
    assert {*sizes} == {path.name for path in files}
    assert {size.kind for size in sizes.values()} == set(generate.GOALS)
    assert [name for name, size in sizes.items() if size.client > generate.GOALS[size.kind]] == []
    assert all(
        f"| {size.client} | ≤ {generate.GOALS[size.kind]} | {size.file} |" in generate.sizes_table()
        for size in sizes.values()
    )


def test_lines_are_counted_without_main(tmp_path):
    import count_lines

    path = tmp_path / "example.py"
    path.write_text(
        '"""Doc."""\n\nimport sys\n\n\ndef work():\n    # why\n    return 1\n\n\n'
        'def main():\n    work()\n\n\nif __name__ == "__main__":\n    main()\n'
    )
    assert (count_lines.count(path), count_lines.count_without_main(path)) == (7, 3)


def test_tests_in_snippets_pass(tmp_path):
    blocks = [body for page in (README, *PAGES) for _, body in FENCE.findall(page.read_text()) if "\ndef test_" in body]
    for number, body in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(body)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert len(blocks) >= 2
    assert f"{len(blocks)} passed" in done.stdout, done.stdout


#: Verbs that take a `timeout` in every client, and those that the asynchronous clients leave to the runtime.
BOUNDED = {"connect_when_ready", "provision"}
UNBOUNDED = {"ping", "get_health", "set_config", "inject_secret", "inject_ssh_key", "mount", "shutdown"}
UNBOUNDED |= {"request", "request_many"}
#: What bounds these: asyncio.timeout, trio.fail_after and move_on_after, curio.timeout_after, a driver's `bounded`.
BOUNDS = ("timeout(", "fail_after(", "move_on_after(", "timeout_after(", "bounded(")


def waits_without_bound(text):
    """The calls in a program that a guest which falls silent would hold for ever."""
    nodes = [*ast.walk(ast.parse(text))]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    bounded = [call.func for call in calls if "timeout" in {keyword.arg for keyword in call.keywords}]
    for call in calls:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in BOUNDED and call.func not in bounded:
            yield ast.unparse(call)
    for node in nodes:
        if isinstance(node, ast.AsyncFunctionDef) and not any(bound in ast.unparse(node) for bound in BOUNDS):
            names = [each for each in ast.walk(node) if isinstance(each, ast.Attribute) and each.attr in UNBOUNDED]
            if verbs := [each.attr for each in names if each not in bounded]:
                yield f"{node.name}: {', '.join(verbs)}"


def programs():
    """All that a reader may copy."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield pytest.param(path.read_text(), id=name_of(path))
    for page in (README, *PAGES):
        blocks = [body for language, body in FENCE.findall(page.read_text()) if language in ("python", "py")]
        if blocks:
            yield pytest.param("\n".join(blocks), id=name_of(page))


@pytest.mark.parametrize("text", [*programs()])
def test_nothing_that_is_shown_waits_for_ever(text):
    assert [*waits_without_bound(text)] == []


def test_a_wait_without_a_bound_is_found():
    assert [*waits_without_bound("guest.provision(plan)\nguest.provision(plan, timeout=5)")] == [
        "guest.provision(plan)"
    ]
    program = "async def main():\n    {}\n        await guest.ping()"
    assert [*waits_without_bound(program.format("if guest:"))] == ["main: ping"]
    assert [*waits_without_bound(program.format("with trio.fail_after(5):"))] == []


# ---------------------------------------------------------------------------------------------------- pages


class Links(HTMLParser):
    """The links of a page, and the places that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.hrefs = []
        self.ids = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id"))
        self.hrefs += [values[name] for name in ("href", "src") if values.get(name)]


def test_the_pages(tmp_path):
    """They are built once, with warnings as errors, for all that is to be seen in them."""
    line = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    no_link_inside_is_broken(tmp_path)
    what_is_generated_is_there(tmp_path)
    every_public_name_is_there(tmp_path)


def no_link_inside_is_broken(html):
    pages = {path: Links(path.read_text()) for path in html.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for href in page.hrefs:
            if re.match(r"[a-z]+:", href):
                continue
            place, _, anchor = href.partition("#")
            target = (path.parent / place.partition("?")[0]).resolve() if place else path
            known = pages.get(target)
            if not target.exists() or (anchor and known and anchor not in known.ids):
                broken.append(f"{path.relative_to(html)}: {href}")
    assert broken == []


@pytest.mark.parametrize("href", ["gone.html", "other.html#gone", "#gone", "gone.svg"])
def test_a_link_that_leads_nowhere_is_found(tmp_path, href):
    (tmp_path / "other.html").write_text('<h1 id="top">Other</h1>')
    page = tmp_path / "page.html"
    page.write_text('<h1 id="top">Page</h1><a href="other.html#top"></a><a href="#top"></a><a href="https://x.test/">')
    no_link_inside_is_broken(tmp_path)
    page.write_text(f'{page.read_text()}<a href="{href}"></a>')
    with pytest.raises(AssertionError, match=href):
        no_link_inside_is_broken(tmp_path)


def test_files_that_pages_name_are_there():
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in (*map(ROOT.joinpath, ("README.md", "SECURITY.md", "CONTRIBUTING.md", "fuzz/README.md")), *PAGES):
        text = page.read_text()
        for name in re.findall(r"`((?:bench|docs|examples|fuzz|src|tests|tools)/[\w/.-]+)`", text):
            assert (ROOT / name).exists() or "_build" in name, f"{name_of(page)} names {name}"
        assert set(re.findall(r"`(?:[\w/]+/)?(test_\w+\.py)", text)) <= tests, name_of(page)
    for name in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (ROOT / name).exists(), f"README.md links to {name}"


def what_is_generated_is_there(html):
    states = (html / "states.html").read_text()
    for row in REGISTRY:
        assert row.type in states
        if row.cls.__name__ in stereos_proto.__all__:
            assert f"stereos_proto.{row.cls.__name__}" in states
    assert states.count('class="diagram"') == 3
    errors = (html / "errors.html").read_text()
    for name in stereos_proto.__all__:
        thing = getattr(stereos_proto, name)
        if inspect.isclass(thing) and issubclass(thing, StereosError):
            assert f'id="{name.lower()}"' in errors, name
    assert "Exit codes" in (html / "cli.html").read_text()
    testing = unescape((html / "howto" / "testing.html").read_text())
    assert [row.form for row in fault_table() if row.form not in testing or row.example not in testing] == []


def every_public_name_is_there(html):
    import generate

    text = "".join(path.read_text() for path in (html / "api").glob("*.html"))
    places = [module for _, _, module, _ in generate.API]
    missing = []
    for module in places:
        for name in generate.public_names(module):
            thing = getattr(module, name)
            # What one module has from another stands with that one.
            homes = [home.__name__ for home in places if getattr(home, name, None) is thing]
            if not any(f'id="{home}.{name}"' in text for home in homes):
                missing.append(f"{module.__name__}.{name}")
    assert missing == []
    for member in (*stereos_proto.Role, *stereos_proto.State, *stereos_proto.LifecycleState):
        assert f'id="stereos_proto.{type(member).__name__}.{member.name}"' in text
    # What Sphinx shows by itself of attrs' defaults, of aliases, and of exceptions whose base has a `__new__`.
    for ugly in ("attr_dict", "TypeAliasForwardRef", "Method generated by attrs", "_kwargs"):
        assert ugly not in text
    assert 'href="../protocol.html#s5"' in text


def texts_of(svg):
    """The texts of a diagram, which must be well-formed."""
    root = ElementTree.fromstring(svg)
    return {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}


def test_diagrams_show_their_tables(monkeypatch):
    import generate

    happenings = {happening.value for _, happening in TRANSITIONS}
    said = texts_of(generate.states_diagram())
    assert {state.value for state in State} < said
    assert happenings <= {word for text in said for word in text.split(", ")}
    assert {row.type for row in REGISTRY} | {"host", "guest"} == texts_of(generate.exchange_diagram())
    assert set(LifecycleState) == texts_of(generate.lifecycle_diagram())
    # A transition more is an arrow more.
    arrows = generate.states_diagram().count("marker-end")
    monkeypatch.setattr(generate, "TRANSITIONS", {**TRANSITIONS, (State.CLOSED, Happening.MESSAGE): State.OPEN})
    assert generate.states_diagram().count("marker-end") == arrows + 1


def test_every_public_module_is_in_the_reference():
    import generate

    import stereos_proto_io

    modules = {
        module.name
        for package in (stereos_proto, stereos_proto_io)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if "._" not in module.name and ".cli" not in module.name
    }
    # Two have their names elsewhere, and one is a fixture, which autodoc does not see.
    elsewhere = {"stereos_proto_io.guest.simulator", "stereos_proto_io.guest.conformance"}
    elsewhere |= {"stereos_proto_io.pytest_plugin"}
    assert modules - elsewhere <= {module.__name__ for _, _, module, _ in generate.API}


def test_an_error_without_a_remedy_fails_the_build(monkeypatch):
    import generate

    monkeypatch.delitem(generate.REMEDIES, "NotReady")
    with pytest.raises(ValueError, match="NotReady"):
        generate.errors_list()


def test_the_ten_faults_of_the_reference_are_ten():
    numbers = re.findall(r"^\| (\d+) \|", (DOCS / "index.md").read_text(), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 11)]


_BACKOFF = Backoff()
#: Where pages tell a number of the code.
NUMBERS = [
    ("integrate.md", f"may be under way, {MAX_PENDING} by default"),
    ("integrate.md", f"up to {RESYNC_MAX_PATIENCE:g} s: a slow guest"),
    ("protocol.md", f"({RESYNC_PATIENCE:g}, {RESYNC_PATIENCE * 2:g}, {RESYNC_MAX_PATIENCE:g}, "),
    ("integrate.md", f"{HYBRID_VSOCK_PATIENCE:g} s is enough for hybrid vsock"),
    ("tutorials/blocking.md", f"by default the client's, which is {DEFAULT_TIMEOUT:g}."),
    ("tutorials/blocking.md", f"by default it is {READY_TIMEOUT:g}."),
    ("howto/timeouts.md", f"the client's own is {DEFAULT_TIMEOUT:g} s"),
    ("howto/transports.md", f"A guest listens on port {GUEST_PORT}"),
    ("howto/transports.md", f"waits up to {HYBRID_VSOCK_PATIENCE:g} s for `OK`"),
    ("howto/fleets.md", f"tried after {_BACKOFF.first * 1000:g} ms, then after twice as long each time"),
    ("howto/fleets.md", f"up to {_BACKOFF.maximum:g} s. One that answers"),
    ("howto/fleets.md", f"is asked again after at most {_BACKOFF.answering * 1000:g} ms"),
    ("howto/from-mb.md", f"a regular file of at most {MAX_PROMPT_SIZE // 1024} KiB"),
    (
        "howto/from-mb.md",
        f"looks at its config every {inspect.signature(GuestSimulator).parameters['poll_interval'].default:g} s",
    ),
    ("protocol.md", f"{MAX_LINE_SIZE - 1:,} bytes | `\\n` | {MAX_LINE_SIZE:,}"),
    ("protocol.md", f"waits **{DEFAULT_TIMEOUT:g} s** for a reply"),
    ("protocol.md", f"the vsock CID **{GUEST_CID}**"),
    ("protocol.md", f"of {MAX_HYBRID_VSOCK_ANSWER} bytes at most"),
    ("protocol.md", f"up to {MAX_NESTING:,} levels of nesting"),
    ("protocol.md", f"nest {MAX_KEPT_NESTING} levels at most"),
]


@pytest.mark.parametrize("page", ["README.md", "docs/integrate.md", "docs/errors.md"])
def test_what_may_be_repeated_is_told_from_what_may_not(page):
    """Who catches the base class repeats a mount."""
    assert issubclass(OutcomeUnknown, ConnectionLost)
    text = " ".join((ROOT / page).read_text().split())
    assert "`OutcomeUnknown` is a `ConnectionLost`: catch it first, or test for it" in text


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_code_that_takes_notifications_minds_those_that_nobody_knows(page):
    """A newer guest may send a message that has neither state nor message."""
    blocks = [body for language, body in FENCE.findall(page.read_text()) if language in ("python", "py")]
    takes = [body for body in blocks if re.search(r"\.notifications\(", body)]
    assert all("isinstance(message, Lifecycle)" in body for body in takes)


def test_a_closed_client_dials_no_more():
    client = PollClient(TCP("127.0.0.1", 1))
    client.close()
    for task in (client.wait_ready(timeout=1), client.connect()):
        list(client.events())
        with pytest.raises(ConnectionLost):
            task.result()
    assert "| `wait_ready`, `connect`, after `client.close()` |" in (DOCS / "integrate.md").read_text()


@pytest.mark.parametrize(("page", "sentence"), NUMBERS)
def test_numbers_on_the_pages_are_those_of_the_code(page, sentence):
    assert sentence in " ".join((DOCS / page).read_text().split())


FROM_MB = DOCS / "howto" / "from-mb.md"
ROWS = {row["id"]: row for row in vectors.JCARD}
#: What the page says of `mb` and of us, the recorded row that shows it, and what is true of the row's host and guest,
#: and of our plan (None: we refuse the file).
FROM_MB_CLAIMS = [
    ("the value is empty", "expand/unset", lambda host, _: host["secrets"] == [["K", ""]], None),
    (
        "the value is expanded again",
        "expand/self-reference",
        lambda host, _: host["secrets"] == [["K", "${SELF}xx"]],
        lambda plan: plan.secrets[0].value == "${SELF}x",
    ),
    (
        "the guest drops the whole file",
        "valid/timeout=90",
        lambda host, guest: "config" in host and "error" in guest,
        None,
    ),
    ("the guest refuses it", "shared/guest-over-system", lambda host, _: "error" not in host, None),
    ("the guest refuses it", "secrets/dot-names", lambda host, _: "error" not in host, None),
    ("which one counts changes from run to run", "case/Name-and-name", lambda host, _: "error" not in host, None),
    (
        "the guest gets a path of the host, and the agent never starts",
        "prompt/file-relative",
        lambda _, guest: not guest["agents"][0]["starts"],
        lambda plan: "prompt_file" not in plan.config,
    ),
    (
        "is dropped without a word | is one agent",
        "legacy/agent-named",
        lambda _, guest: guest["agents"] == [],
        lambda plan: plan.agents == ("claude-code",),
    ),
    (
        "are dropped | are sent; of unknown ones there is a warning",
        "unknown/memory-and-pid-limit",
        lambda _, guest: guest["agents"][0]["pid_limit"] == 512,
        lambda plan: "pid_limit = 9" in plan.config,
    ),
    (
        "are dropped without a word | are dropped with a warning",
        "unknown/secret-singular",
        lambda host, _: "secret" not in host["config"],
        lambda plan: "secret" not in plan.config and "secret is unknown" in plan.warnings[0],
    ),
    (
        "goes out as a full path | goes out as it is written",
        "workdir/default-with-shared",
        lambda host, _: host["config"]["shared"][0]["host"].startswith("/home/user/"),
        lambda plan: "/home/user" not in plan.config,
    ),
    ("it is TOML 1.1", "bytes/inline-newline-1.1", lambda host, _: "error" not in host, None),
    (
        "starts in the first shared folder",
        "workdir/default-with-shared",
        lambda host, _: host["config"]["agents"][0]["workdir"] == host["config"]["shared"][0]["guest"],
        lambda plan: f'workdir = "{plan.mounts[0].guest_path}"' in plan.config,
    ),
]


@pytest.mark.parametrize(("words", "row", "theirs", "ours"), FROM_MB_CLAIMS, ids=[claim[1] for claim in FROM_MB_CLAIMS])
def test_what_the_page_for_users_of_mb_says_was_seen(words, row, theirs, ours):
    assert words in " ".join(FROM_MB.read_text().split())
    row = ROWS[row]
    assert theirs(row["host"], row["guest_of_host_config"])
    options = {"env": row["env"], "read_prompt": lambda path: row["files"][path.removeprefix("./")]}
    if ours is None:
        with pytest.raises(JcardError):
            load_jcard(vectors.toml_of(row), **options)
    else:
        assert ours(load_jcard(vectors.toml_of(row), **options))


def test_every_option_on_the_page_for_users_of_mb_exists():
    options = {*re.findall(r"--[a-z][a-z-]+", FROM_MB.read_text())}
    assert {"--skip-mounts", "--no-strict", "--on-refusal", "--ssh-key", "--fs", "--wait"} <= options
    helps = [
        subprocess.run(
            [sys.executable, "-m", "stereos_proto_io.cli", command, "--help"],
            capture_output=True, text=True, timeout=PATIENCE, check=True,
        ).stdout
        for command in ("provision", "wait", "shutdown")
    ]  # fmt: skip
    assert [option for option in options if not any(option in text for text in helps)] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "`mb` forwards it on all interfaces of the host",
        "The values of `[agents.env]` stay in it",
        "everyone in the guest can read them, and `plan.warnings` says so",
    ],
)
def test_the_security_page_says_who_can_reach_and_read(sentence):
    assert sentence in " ".join((DOCS / "security.md").read_text().split())


def test_what_is_tried_again_every_second():
    assert RESYNC_PATIENCE == 1
    assert _BACKOFF.factor == 2


def test_sections_of_the_protocol_keep_their_numbers():
    heads = re.findall(r"^## (\d+)\. ", (DOCS / "protocol.md").read_text(), re.MULTILINE)
    assert heads == [str(number) for number in range(1, 11)]


def test_names_in_the_tables_of_names_exist():
    import generate

    import stereos_proto_io
    from stereos_proto_io import asyncio, blocking, trio

    rows = re.findall(r"^\| [^|]* \|(.*)\|$", (DOCS / "names.md").read_text() + generate.names_table(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 20
    for driver in (asyncio, blocking, trio):
        for name in names:
            assert any(hasattr(place, name) for place in (stereos_proto, stereos_proto_io, driver, driver.Client)), name
    for row in REGISTRY:
        assert f"| `{row.type}` | `{row.cls.__name__}`" in generate.names_table()
