"""A second try of `provision`: what the first one wrote down is not repeated, and nothing is guessed."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess

import attrs
import pytest

from cli.fleets import fleet, keep_state
from cli.test_commands import check
from cli_harness import CLEAN_ENV, COMMAND, run_cli, terminal
from stereos_proto import Mount, ProvisionStep, StepStatus
from stereos_proto_io.cli import _journal
from stereos_proto_io.cli._errors import UsageError
from stereos_proto_io.cli._journal import Journal, request_of

JCARD = """
[[shared]]
host = "."
guest = "/workspace"
[[shared]]
host = "."
guest = "/data"
[secrets]
TOKEN = "${FLEET_TOKEN}"
[[agents]]
name = "coder"
harness = "custom"
"""
SECRET = "a-secret-value"


@pytest.fixture
def cli(tmp_path, monkeypatch):
    (tmp_path / "j.toml").write_text(JCARD)

    def run(*words, **options):
        env = {"MB_CONFIG_DIR": str(tmp_path), "FLEET_TOKEN": SECRET, **options.pop("env", {})}
        return run_cli(monkeypatch, *words, env=env, **options)

    def provision(*words, **options):
        return run("provision", str(tmp_path / "j.toml"), *words, **options)

    return provision


def lines(path):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        check(record, "journal")
    return records


def folded(path):
    steps = {}
    for record in lines(path):
        steps.setdefault(record["guest"], {}).update(record["steps"])
    return steps


def taken(guest, kind):
    return [request for request in guest.simulator.requests if request.type == kind]


def test_a_second_try_sends_only_what_is_left(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {}, "b": {"faults": ["fail:busy@mount#2"]}, "c": {}}) as guests:
        first = cli("--all", "--journal", str(book))
        assert first.code == 1
        assert f"1 guest has steps left: `stereosctl provision … --resume {book}` sends only these" in first.err
        assert folded(book)["b"] == {
            "mount share0 at /workspace": "done",
            "mount share1 at /data": "refused",
            "secret TOKEN": "done",
            "config": "not sent",
        }
        dry = cli("--resume", str(book), "--dry-run")
        assert dry.out.splitlines() == [
            "b",
            "✓ mount share0 at /workspace",
            "✓ secret TOKEN",
            "– mount share1 at /data  not sent",
            "– config  not sent",
        ]
        as_json = json.loads(cli("--resume", str(book), "--dry-run", "--json").out)
        check(as_json, "rest")
        # Rotated in the meantime: the second try must not bring the old one back.
        second = cli("--resume", str(book), env={"FLEET_TOKEN": "an-old-value"})
        assert second.code == 0, second
        assert second.err.startswith("with steps left: b\n")
        assert "4 of 4 steps done, 2 of them before; it starts coder" in second.err
        assert [mount.guest_path for mount in taken(guests["b"], "mount")] == ["/workspace", "/data", "/data"]
        assert guests["b"].simulator.secrets["TOKEN"].value == SECRET
        assert [len(taken(guest, "mount")) for guest in guests.values()] == [2, 3, 2]
        third = cli("--resume", str(book))
        assert (third.code, third.out) == (0, "")
        assert third.err == (
            f"nothing is left to do of {book}, and no guest was asked: "
            "--all or --vm NAME sees whether one was rebooted\n"
        )
        everyone = cli("--all", "--resume", str(book), "--json")
        document = json.loads(everyone.out)
        check(document, "many")
        assert [each["result"]["ok"] for each in document] == [True] * 3
        assert [len(taken(guest, "mount")) for guest in guests.values()] == [2, 3, 2], "nothing was sent"
    assert SECRET not in book.read_text()


def test_guests_that_were_never_begun_are_in_the_journal(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {"faults": ["fail:no@mount"]}, "b": {}, "c": {}}) as guests:
        keep_state(tmp_path, "gone", {"backend": "qemu", "vsock_port": 1})
        words = ("--all", "--parallel", "1", "--max-failures", "1", "--timeout", "1", "--journal", str(book))
        first = cli(*words)
        assert first.code == 1
        assert "4 guests have steps left" in first.err
        assert set(folded(book)) == {"a", "b", "c", "gone"}
        assert [len(taken(guest, "mount")) for guest in guests.values()] == [2, 0, 0]
        second = cli("--resume", str(book), "--timeout", "1")
        assert second.code == 124
        assert [len(taken(guest, "mount")) for guest in guests.values()] == [4, 2, 2]
        assert "1 guest has steps left" not in second.err, "a refuses again"
        assert "2 guests have steps left" in second.err


def test_a_mount_of_unknown_outcome_is_asked_about(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {"faults": ["stall@mount#2"]}, "b": {}}) as guests:
        first = cli("--vm", "a", "--vm", "b", "--journal", str(book), "--timeout", "1")
        assert first.code == 5
        assert folded(book)["a"]["mount share1 at /data"] == "unknown"
        sent = len(guests["a"].simulator.requests)
        for words in (("--resume", str(book)), ("--resume", str(book), "--dry-run"), ("--resume", str(book), "--all")):
            again = cli(*words)
            assert again.code == 5
            assert "it is not known whether the guest carried this out: " in again.all
            assert "--unknown-mounts skip where it did and repeat where it did not" in again.all
        assert len(guests["a"].simulator.requests) == sent, "nothing was sent"
        last = cli("--resume", str(book), "--unknown-mounts", "skip")
        assert last.code == 0, last
        assert len(taken(guests["a"], "mount")) == 2
        assert set(folded(book)["a"].values()) == {"done"}
        assert guests["a"].simulator.config


def test_unknown_mounts_are_repeated_on_demand(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {"faults": ["stall@mount#2"]}}) as guests:
        assert cli("--vm", "a", "--journal", str(book), "--timeout", "1").code == 5
        assert cli("--resume", str(book), "--unknown-mounts", "repeat").code == 0
        assert [mount.guest_path for mount in taken(guests["a"], "mount")] == ["/workspace", "/data", "/data"]


def rebooted_since(book, names="a", seconds=60):
    """Make a journal that of a first try to guests that had booted so many seconds before these did."""
    moved = lines(book)
    for line in moved:
        if line["guest"] in names and line["booted"]:
            line["booted"] -= seconds
    book.write_text("".join(f"{json.dumps(line)}\n" for line in moved))


@pytest.mark.parametrize("moved", [60, 2.5, -2.5])
def test_what_a_reboot_has_undone_is_not_taken_for_done(moved, tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {"faults": ["fail:no@mount#2"]}}) as guests:
        assert cli("--vm", "a", "--journal", str(book)).code == 1
        rebooted_since(book, seconds=moved)
        sent = len(taken(guests["a"], "mount"))
        again = cli("--resume", str(book))
        assert again.code == 2
        assert "\nstereosctl: a has been rebooted since the steps" in again.err
        assert len(taken(guests["a"], "mount")) == sent


@pytest.mark.parametrize("fault", ["fail:no@mount#2", "stall@mount#2", "stall@set_config#1"])
def test_a_guest_that_was_rebooted_gets_all_steps_on_demand(fault, tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {"faults": [fault], "uptime": 3600}, "b": {}}) as guests:
        assert cli("--all", "--journal", str(book), "--timeout", "1").code != 0
        guests["a"].reboot()
        before = len(guests["a"].simulator.requests)
        again = cli("--resume", str(book), "--rebooted", "repeat")
        assert again.code == 0, again
        assert "✓ config" in again.out
        sent = [request.type for request in guests["a"].simulator.requests[before:]]
        assert [kind for kind in sent if kind not in ("ping", "get_health")] == [
            *("mount", "mount", "inject_secret", "set_config")
        ]
        assert [set(steps.values()) for steps in folded(book).values()] == [{"done"}, {"done"}]
        assert cli("--all", "--resume", str(book)).code == 0, "the boot is the new one"
        assert len(taken(guests["b"], "mount")) == 2


def test_a_reboot_that_was_none_is_passed_over_on_demand(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {"faults": ["fail:no@mount#2"]}}) as guests:
        assert cli("--vm", "a", "--journal", str(book)).code == 1
        rebooted_since(book)
        refused = cli("--resume", str(book))
        assert refused.code == 2
        assert "say --rebooted repeat where its mounts are gone and --rebooted skip where they are not" in refused.err
        assert cli("--resume", str(book), "--rebooted", "skip").code == 0
        assert [mount.guest_path for mount in taken(guests["a"], "mount")] == ["/workspace", "/data", "/data"]
        assert cli("--vm", "a", "--resume", str(book)).code == 0, "the boot is the new one"


def test_steps_that_a_reboot_has_undone_and_the_plan_lacks_are_shown(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {"faults": ["fail:no@mount#2"]}}) as guests:
        (tmp_path / "key.pub").write_text(KEY)
        assert cli("--vm", "a", "--journal", str(book), "--ssh-key", str(tmp_path / "key.pub")).code == 1
        rebooted_since(book)
        again = cli("--resume", str(book), "--rebooted", "repeat")
        assert again.code == 1
        assert "SSH key of admin" in again.out
        assert "add --ssh-key FILE" in again.out
        assert len(taken(guests["a"], "mount")) == 4


def test_folders_that_moved_are_no_matter_after_a_reboot(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    (tmp_path / "j.toml").write_text(shared("/a", "/b"))
    with fleet(tmp_path, {"a": {"faults": ["deny:no@mount#2"], "uptime": 3600}, "b": {}}) as guests:
        assert cli("--all", "--journal", str(book)).code == 1
        (tmp_path / "j.toml").write_text(shared("/new", "/a", "/b", "/a/below"))
        refused = cli("--resume", str(book))
        assert refused.code == 2
        assert "reboot the guest, which undoes mounts and secrets, and say --rebooted repeat" in refused.err
        guests["a"].reboot()
        again = cli("--resume", str(book), "--rebooted", "repeat")
        assert again.code == 1, "the journal has steps that the plan lacks"
        assert [mount.guest_path for mount in taken(guests["a"], "mount")][2:] == ["/new", "/a", "/b", "/a/below"]


def test_a_guest_of_which_nothing_is_left_is_asked_all_the_same(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {}, "b": {}, "c": {}}) as guests:
        assert cli("--all", "--journal", str(book)).code == 0
        rebooted_since(book, "b")
        # As if c were switched off.
        (tmp_path / "vms" / "c" / "state.json").write_text('{"backend": "qemu", "vsock_port": 1}')
        again = cli("--all", "--resume", str(book), "--json")
        assert [each["code"] for each in json.loads(again.out)] == [0, 2, 3]
        assert again.code == 2
        assert "b has been rebooted since the steps" in again.out
        alone = cli("--vm", "c", "--resume", str(book))
        assert (alone.code, alone.out) == (3, "")
        assert alone.err.startswith("stereosctl: cannot connect to c: ")
        assert [len(taken(guest, "mount")) for guest in guests.values()] == [2] * 3, "nothing was sent again"


def test_a_guest_whose_unknown_mount_was_its_last_step_is_asked(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    (tmp_path / "j.toml").write_text('[[shared]]\nhost = "."\nguest = "/data"\n')
    with fleet(tmp_path, {"a": {"faults": ["drop@mount"]}}):
        cli("--vm", "a", "--journal", str(book), "--timeout", "1")
        assert set(folded(book)["a"].values()) == {"unknown", "not sent"}
        (tmp_path / "vms" / "a" / "state.json").write_text('{"backend": "qemu", "vsock_port": 1}')
    book.write_text(book.read_text().replace('"not sent"', '"done"'))
    gone = cli("--resume", str(book), "--unknown-mounts", "skip")
    assert gone.code == 3
    assert folded(book)["a"]["mount share0 at /data"] == "unknown", "it is not known of a guest that was not asked"


def test_a_killed_first_try_leaves_behind_what_it_knew(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {}, "b": {"faults": ["stall@mount"]}}) as guests:
        words = ("provision", str(tmp_path / "j.toml"), "--all", "--journal", str(book))
        env = {**CLEAN_ENV, "MB_CONFIG_DIR": str(tmp_path), "FLEET_TOKEN": SECRET}
        with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, env=env, text=True) as process:
            seen = ""
            while "✓  a" not in seen or not taken(guests["b"], "mount"):
                line = process.stderr.readline()
                assert line, seen
                seen += line
            process.send_signal(signal.SIGKILL)
        known = folded(book)
        assert set(known["a"].values()) == {"done"}
        assert "unknown" in known["b"].values()
        # Half a line at the end is what a kill can leave.
        book.write_text(book.read_text() + '{"guest": "a", "boo')
        again = cli("--resume", str(book))
        assert again.code == 5
        assert "it is not known whether the guest carried this out" in again.err
        folded(book)


def test_ctrl_c_leaves_a_journal_and_says_how_to_go_on(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {}, "b": {"faults": ["stall@mount"]}}) as guests:
        words = ("provision", str(tmp_path / "j.toml"), "--all", "--journal", str(book))
        env = {"MB_CONFIG_DIR": str(tmp_path), "FLEET_TOKEN": SECRET}
        with terminal(*words, env=env) as it:
            it.wait_for("1 of 2 guests are done")
            it.interrupt()
            assert it.end() == -signal.SIGINT
        assert "1 guest has steps left" in it.seen
        assert guests["b"].simulator.requests
    assert "unknown" in folded(book)["b"].values()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--vm a --journal BOOK --resume BOOK", "--journal and --resume cannot be combined"),
        ("--vm a --journal BOOK --dry-run", "--journal and --dry-run cannot be combined"),
        ("--vm a --unknown-mounts skip", "--unknown-mounts is for a second try, with --resume"),
        ("--vm a --rebooted repeat", "--rebooted is for a second try, with --resume"),
        ("--vm a --journal BOOK", "exists already: --resume goes on where it ends"),
        ("--resume NOWHERE", "cannot read NOWHERE: No such file or directory"),
        ("--resume BOOK", "is no journal of provision: see its line 1"),
        ("--vm a --journal NOWHERE/x", "cannot write NOWHERE/x: No such file or directory"),
    ],
)
def test_a_journal_that_makes_no_sense_is_refused(words, text, tmp_path, cli):
    (tmp_path / "book").write_text(f'{{"guest": "{SECRET}"}}\n')
    places = {"BOOK": str(tmp_path / "book"), "NOWHERE": str(tmp_path / "nowhere")}
    for short, path in places.items():
        words, text = words.replace(short, path), text.replace(short, path)
    with fleet(tmp_path, {"a": {}}) as guests:
        result = cli(*words.split())
        assert not any(guest.simulator.requests for guest in guests.values())
    assert (result.code, text in result.err, SECRET in result.all) == (2, True, False), result


def test_without_a_journal_the_danger_of_a_second_try_is_said(tmp_path, cli):
    with fleet(tmp_path, {"a": {"faults": ["fail:no@mount#2"]}, "b": {}}):
        result = cli("--all")
        assert "a second try mounts again what is mounted" in result.err
        assert "--journal FILE" in result.err


def test_without_a_journal_the_danger_for_the_guests_that_are_done_is_said(tmp_path, cli):
    with fleet(tmp_path, {"a": {}, "b": {}}):
        keep_state(tmp_path, "gone", {"backend": "qemu", "vsock_port": 1})
        result = cli("--all", "--timeout", "1")
        assert result.code == 124
        assert "a second try mounts again what is mounted: name only the guests that failed; next time" in result.err
        alone = cli("--vm", "gone", "--timeout", "1")
        assert (alone.code, "second try" in alone.err) == (124, False), "nothing is mounted"


def test_a_wrong_option_leaves_no_journal_behind(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    with fleet(tmp_path, {"a": {}}):
        for words in ("--timeout 0", "--total-timeout 0", "-o template={nome}", "--vm nowhere", "-o xml"):
            assert cli("--vm", "a", "--journal", str(book), *words.split()).code == 2
            assert not book.exists(), words


# ------------------------------------------------------------------------------- steps that the plan does not have

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGx1Y2t5IG51bWJlciBzZXZlbiBhbmQgdGhlIHJlc3Q= somebody"
WITHOUT_DATA = JCARD.replace('[[shared]]\nhost = "."\nguest = "/data"\n', "")
WITHOUT_TOKEN = JCARD.replace('TOKEN = "${FLEET_TOKEN}"\n', "")

REFUSED = "✗ {}  refused: the guest refused {}: in an earlier try"


@attrs.frozen
class Lacking:
    """A step that is left of a first try, and that the plan of a second one does not have."""

    #: What goes wrong in the first try, and the options of both.
    fault: str
    first: str
    second: str
    #: What is said of the step, and what would give it.
    said: str
    cure: str
    jcard: str = JCARD
    code: int = 1

    @property
    def line(self):
        return f"{self.said}; this plan does not have the step: {self.cure}"


LACKING = {
    "a key": Lacking(
        "fail:no@inject_ssh_key",
        "--ssh-key KEY",
        "",
        REFUSED.format("SSH key of admin", "inject_ssh_key"),
        "add --ssh-key FILE",
    ),
    "the key of another user": Lacking(
        "fail:no@inject_ssh_key#1",
        "--ssh-key KEY",
        "--ssh-key KEY --user agent",
        REFUSED.format("SSH key of admin", "inject_ssh_key"),
        "add --ssh-key FILE --user admin",
    ),
    "a key that got no answer": Lacking(
        "stall@inject_ssh_key",
        "--ssh-key KEY --timeout 1",
        "",
        "? SSH key of admin  unknown: it was sent in an earlier try",
        "add --ssh-key FILE",
        code=5,
    ),
    "mounts": Lacking(
        "fail:no@mount#2",
        "",
        "--skip-mounts",
        REFUSED.format("mount share1 at /data", "mount"),
        "leave out --skip-mounts",
    ),
    "a mount": Lacking(
        "fail:no@mount#2",
        "",
        "",
        REFUSED.format("mount share1 at /data", "mount"),
        "its [[shared]] is not in the jcard.toml any more",
        jcard=WITHOUT_DATA,
    ),
    "a secret": Lacking(
        "fail:no@inject_secret",
        "",
        "",
        REFUSED.format("secret TOKEN", "inject_secret"),
        "it is not in [secrets] of the jcard.toml any more",
        jcard=WITHOUT_TOKEN,
    ),
}


@pytest.mark.parametrize("names", ["a", "ab"])
@pytest.mark.parametrize("case", LACKING.values(), ids=LACKING)
def test_a_step_that_the_plan_does_not_have_is_left(case, names, tmp_path, cli):
    line, code = case.line, case.code
    book = tmp_path / "first.jsonl"
    (tmp_path / "key.pub").write_text(KEY)
    guests = [word for name in names for word in ("--vm", name)]

    def words(text):
        return text.replace("KEY", str(tmp_path / "key.pub")).split()

    with fleet(tmp_path, {name: {"faults": [case.fault]} for name in names}) as running:
        assert cli(*guests, "--journal", str(book), *words(case.first)).code
        (tmp_path / "j.toml").write_text(case.jcard)
        before = [len(guest.simulator.requests) for guest in running.values()]
        dry = cli("--resume", str(book), "--dry-run", *words(case.second))
        assert (dry.code, line in dry.out.splitlines()) == (code, True), dry
        assert [len(guest.simulator.requests) for guest in running.values()] == before
        results = [cli("--resume", str(book), *words(case.second)) for _ in range(2)]
        as_json = cli("--resume", str(book), "--json", *words(case.second))
    for result in results:
        assert (result.code, result.out.splitlines().count(line)) == (code, len(names)), result
        assert "steps left" in result.err
        assert f"{line[2:].partition('  ')[0]} ({case.cure})" in result.err, "what to do is said at the end, too"
    assert as_json.code == code
    document = json.loads(as_json.out)
    check(document, "many")
    for each in document:
        check(each["result"], "provision")
        assert (each["ok"], each["result"]["ok"], each["code"]) == (False, False, code)
        assert [step["label"] for step in each["result"]["steps"] if step["status"] != "done"] == [
            line[2:].partition("  ")[0]
        ]


@pytest.mark.parametrize(
    "label", ["mount share0 at /workspace", "mount a at b at /c", "secret A B", "SSH key of admin", "config"]
)
def test_a_label_tells_the_step(label):
    assert ProvisionStep(request_of(label), StepStatus.DONE).label == label


def test_a_label_that_no_step_has_is_refused(tmp_path, cli):
    (tmp_path / "book").write_text('{"guest": "a", "booted": null, "steps": {"what else": "done"}}\n')
    result = cli("--resume", str(tmp_path / "book"))
    assert (result.code, result.err) == (
        2,
        f"stereosctl: {tmp_path}/book is no journal of provision: see its line 1\n",
    )


# ------------------------------------------------------------------------------------------- mounts over one another


def shared(*paths):
    return "".join(f'[[shared]]\nhost = "."\nguest = "{path}"\n' for path in paths)


@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_mount_that_would_hide_another_one_is_warned_of(names, tmp_path, cli):
    book = tmp_path / "first.jsonl"
    (tmp_path / "j.toml").write_text(shared("/data", "/data/sub"))
    guests = [word for name in names for word in ("--vm", name)]
    warning = "mount share0 at /data would hide what is mounted below it: mount share1 at /data/sub\n"
    with fleet(tmp_path, {name: {"faults": ["deny:no@mount#1"]} for name in names}):
        first = cli(*guests, "--journal", str(book), "--on-refusal", "continue")
        assert (first.code, warning in first.err) == (1, False)
        dry = cli("--resume", str(book), "--dry-run")
        second = cli("--resume", str(book))
    for result in (dry, second):
        assert result.code == 0, result
        for name in names:
            assert result.err.count(f"{name}: {warning}") == 1, result


def test_a_mount_of_an_earlier_try_is_hidden_no_less(tmp_path, cli):
    """The jcard.toml does not have it any more."""
    book = tmp_path / "first.jsonl"
    (tmp_path / "j.toml").write_text(shared("/data/sub", "/b"))
    with fleet(tmp_path, {"a": {}}):
        assert cli("--vm", "a", "--journal", str(book), "--skip-mounts").code == 0
        book.write_text(
            book.read_text() + '{"guest": "a", "booted": null, "steps": {"mount x at /data/sub": "done"}}\n'
        )
        (tmp_path / "j.toml").write_text(shared("/data"))
        again = cli("--vm", "a", "--resume", str(book))
    assert again.code == 0
    assert "a: mount share0 at /data would hide what is mounted below it: mount x at /data/sub\n" in again.err


@attrs.frozen
class Moved:
    """The folders of a first try, of which the guest does not take the second one at once; and of a second try."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    #: The mount that is left to do, that of the first try, and what they share. "": the second try sends what is left.
    left: str = ""
    before: str = ""
    same: str = ""
    fault: str = "deny:no@mount#2"


MOVED = {
    "inserted at the top": Moved(("/a", "/b"), ("/new", "/a", "/b"), "share0 at /new", "share0 at /a", "tag"),
    "the first one is gone": Moved(("/a", "/b"), ("/b",), "share0 at /b", "share0 at /a", "tag"),
    "the one before it is gone": Moved(("/a", "/b", "/c"), ("/a", "/c/"), "share1 at /c/", "share2 at /c", "path"),
    "the outcome is unknown": Moved(
        ("/a", "/b"), ("/a", "/new", "/b"), "share1 at /new", "share1 at /b", "tag", fault="stall@mount#2"
    ),
    "put after the others": Moved(("/a", "/b"), ("/a", "/b", "/new")),
    "two at one place": Moved(("/a", "/a"), ("/a", "/a")),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVED.values(), ids=MOVED)
def test_a_folder_whose_tag_has_changed_is_not_mounted_again(case, tmp_path, cli):
    book = tmp_path / "first.jsonl"
    (tmp_path / "j.toml").write_text(shared(*case.first))
    with fleet(tmp_path, {"a": {"faults": [case.fault]}}) as guests:
        assert cli("--vm", "a", "--journal", str(book), "--timeout", "1").code
        before, mounts = book.read_bytes(), len(taken(guests["a"], "mount"))
        (tmp_path / "j.toml").write_text(shared(*case.second))
        dry, again, named, as_json = (
            cli("--resume", str(book), *words)
            for words in (["--dry-run"], [], ["--vm", "a", "--unknown-mounts", "repeat"], ["--vm", "a", "--json"])
        )
        if case.left:
            assert (book.read_bytes(), len(taken(guests["a"], "mount"))) == (before, mounts), "nothing was done"
    sentence = (
        f"a: mount {case.left} is left to do, and has the {case.same} of mount {case.before}, which an earlier try"
    )
    for result in (dry, again, named):
        assert (sentence in result.err) is bool(case.left), result
        assert (result.code == 2) is bool(case.left), result
    if case.left:
        assert "put new [[shared]] folders after the others" in again.err
        assert sentence in json.loads(as_json.out)["error"]


def test_a_step_whose_folder_has_moved_says_so(tmp_path, cli):
    book = tmp_path / "first.jsonl"
    (tmp_path / "j.toml").write_text(shared("/a", "/b"))
    with fleet(tmp_path, {"a": {"faults": ["deny:no@mount#2"]}}):
        assert cli("--vm", "a", "--journal", str(book)).code == 1
        (tmp_path / "j.toml").write_text(shared("/a", "/new", "/b"))
        again = cli("--resume", str(book))
    assert again.code == 1
    cure = "the jcard.toml has its [[shared]] in another place, as share2: put it back"
    assert f"this plan does not have the step: {cure}\n" in again.out
    assert f"mount share1 at /b ({cure})" in again.err


# --------------------------------------------------------------------------------------- what is said without a journal


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["fail:no@inject_ssh_key"], "`stereosctl ssh-key add`"),
        (["fail:no@inject_secret"], "`stereosctl secret set` and `config set`"),
        (
            ["fail:no@mount#2", "fail:no@inject_secret", "fail:no@inject_ssh_key"],
            "`stereosctl mount`, `secret set`, `ssh-key add` and `config set`",
        ),
        (["fail:no@set_config"], "`stereosctl config set`"),
    ],
)
@pytest.mark.parametrize("names", ["a", "ab"])
def test_only_the_commands_for_what_is_left_are_named(names, faults, words, tmp_path, cli):
    (tmp_path / "key.pub").write_text(KEY)
    guests = [word for name in names for word in ("--vm", name)]
    with fleet(tmp_path, {name: {"faults": faults if name == "a" else []} for name in names}):
        result = cli(*guests, "--ssh-key", str(tmp_path / "key.pub"))
    assert f"a second try mounts again what is mounted: send the rest by {words}; next time" in result.err


# ------------------------------------------------------------------------------------------- the shape of the JSON


def test_one_guest_that_is_named_is_an_object_and_any_number_is_an_array(tmp_path, cli):
    book = tmp_path / "first.jsonl"

    def document(*words):
        result = cli(*words, "--json")
        return json.loads(result.out), result.code

    def resumed(*words):
        return document("--resume", str(book), *words)

    faults = {"a": ["deny:no@mount#2", "deny:no@mount#3"], "b": ["deny:no@mount#2"]}
    with fleet(tmp_path, {name: {"faults": each} for name, each in faults.items()}):
        assert cli("--all", "--journal", str(book)).code == 1
        for left in (2, 1, 0):
            dry, code = resumed("--dry-run")
            check(dry, "rest")
            assert (len(dry), code) == (left, 0)
            lines = cli("--resume", str(book), "--dry-run", "-o", "jsonl").out.splitlines()
            assert [json.loads(line) for line in lines] == dry
            one, code = resumed("--dry-run", "--vm", "a")
            check(one, "provision")
            assert (one["ok"], code) == (left == 0, 0)
            found, code = resumed()
            check(found, "many")
            assert (len(found), code) == (left, int(left == 2))
        one, code = resumed("--vm", "a")
        check(one, "provision")
        assert (one["ok"], code) == (True, 0)


def test_a_dry_run_of_several_plans_is_one_array(tmp_path, cli, monkeypatch):
    def dry(*words):
        result = run_cli(monkeypatch, "provision", *words, "--dry-run", "--json", env={"FLEET_TOKEN": SECRET})
        assert result.code == 0, result
        return json.loads(result.out)

    plan = str(tmp_path / "j.toml")
    (tmp_path / "other.toml").write_text("name = 'x'\n")
    for words in ((plan,), (plan, "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"), ("--jcard", f"a={plan}")):
        check(dry(*words), "provision")
    both = dry(plan, "--jcard", f"a={tmp_path}/other.toml")
    check(both, "rest")
    assert [(each["guest"], len(each["steps"])) for each in both] == [("a", 1), (None, 4)]
    text = run_cli(
        monkeypatch, "provision", plan, "--jcard", f"a={tmp_path}/other.toml", "--dry-run", env={"FLEET_TOKEN": SECRET}
    )
    assert text.out.splitlines()[:3] == ["a", "– config  not sent", "all other guests"]


def test_a_guest_whose_mounts_are_unknown_stands_in_a_dry_run_too(tmp_path, cli):
    book = tmp_path / "book"
    with fleet(tmp_path, {"a": {"faults": ["stall@mount"]}, "b": {"faults": ["deny:no@mount#2"]}}):
        assert cli("--all", "--journal", str(book), "--timeout", "1").code == 5
        result = cli("--resume", str(book), "--dry-run", "--json")
        shown = cli("--resume", str(book), "--dry-run")
    document = json.loads(result.out)
    check(document, "rest")
    assert ([each["guest"] for each in document], result.code) == (["a", "b"], 5)
    unknown = [step for step in document[0]["steps"] if step["status"] == "unknown" and step["request"] == "mount"]
    assert unknown
    for step in unknown:
        assert step["error"]["kind"] == "OutcomeUnknown"
        assert "--unknown-mounts" in step["error"]["error"]
    assert shown.out.startswith("a\n? mount share0 at /workspace  unknown: it is not known"), shown
    assert "a: it is not known whether the guest carried this out" in shown.err


@pytest.mark.parametrize(
    ("first", "second", "known"),
    [
        ("--vm a", "LOCALHOST", "a"),
        ("--vm a", "ADDRESS", "a"),
        ("--vm a", "ADDRESS --dry-run", "a"),
        ("ADDRESS", "LOCALHOST", "ADDRESS"),
        ("ADDRESS", "--vm a", "ADDRESS"),
        ("ADDRESS", "--vm a ADDRESS", "ADDRESS"),
        ("ADDRESS", "--all", "ADDRESS"),
        # The journal knows these.
        ("--vm a", "--vm a ADDRESS", ""),
        ("--vm a", "--all", ""),
        ("ADDRESS", "ADDRESS", ""),
    ],
)
def test_a_guest_is_not_mounted_in_twice_under_another_name(first, second, known, tmp_path, cli):
    book = tmp_path / "book"
    with fleet(tmp_path, {"a": {"faults": ["deny:no@mount#2"]}}) as guests:
        address = str(guests["a"].address)
        places = {"ADDRESS": address, "LOCALHOST": address.replace("127.0.0.1", "localhost")}

        def named(text):
            return [places.get(word, word) for word in text.split()]

        assert cli(*named(first), "--journal", str(book)).code == 1
        before = book.read_bytes()
        result = cli("--resume", str(book), *named(second))
        mounts = len(taken(guests["a"], "mount"))
    if known:
        assert (result.code, book.read_bytes(), mounts) == (2, before, 2), result
        assert f"{book} does not name " in result.err
        assert f", but {places.get(known, known)}: name a guest as the first try did" in result.err
    else:
        assert (result.code, mounts) == (0, 3), result


def refused_secret(folder, cli):
    """A guest that refuses a secret once, and the journal of a first try."""
    book = folder / "book"
    assert cli("--vm", "a", "--journal", str(book)).code != 0
    return book


REFUSES_ONCE = {"faults": ["deny:busy@inject_secret#1"]}


def test_a_journal_with_line_ends_of_windows_is_gone_on_with(tmp_path, cli):
    with fleet(tmp_path, {"a": REFUSES_ONCE}):
        book = refused_secret(tmp_path, cli)
        before = book.read_bytes().replace(b"\n", b"\r\n")
        # A process that was killed has left half a line.
        book.write_bytes(before + b'{"guest": "a", "bo')
        again = cli("--resume", str(book))
    assert again.code == 0
    assert book.read_bytes().startswith(before)
    assert all(json.loads(line) for line in book.read_bytes()[len(before) :].splitlines())
    assert set(folded(book)["a"].values()) == {"done"}


def test_two_processes_do_not_resume_the_same_journal(tmp_path, cli):
    with fleet(tmp_path, {"a": REFUSES_ONCE}) as guests:
        book = refused_secret(tmp_path, cli)
        sent = len(guests["a"].simulator.requests)
        with book.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            again = cli("--resume", str(book))
        assert len(guests["a"].simulator.requests) == sent
    assert again.code == 2
    assert f"{book} is written by another process" in again.err


def test_a_journal_that_was_written_since_it_was_read_is_refused(tmp_path, cli):
    """Another process has resumed it, and ended."""
    with fleet(tmp_path, {"a": REFUSES_ONCE}):
        book = refused_secret(tmp_path, cli)
    journal = Journal(book)
    journal.read()
    book.write_bytes(book.read_bytes() + b'{"guest": "a", "booted": null, "steps": {}}\n')
    before = book.read_bytes()
    with pytest.raises(UsageError, match="is written by another process"), journal.writing({}, new=False):
        pass
    assert book.read_bytes() == before


@pytest.mark.parametrize(
    ("path", "other", "same"), [("/a", "//a", "path"), ("/a/", "/b/../a", "path"), ("/a", "/a/b", "")]
)
def test_paths_are_compared_as_the_guest_reads_them(path, other, same):
    assert _journal._same(Mount("share0", path, "9p"), Mount("share1", other, "9p")) == same
