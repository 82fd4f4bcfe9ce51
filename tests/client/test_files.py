"""A jcard.toml on disk, and the prompts beside it."""

import itertools
import os
import sys
import tomllib
from pathlib import Path

import pytest

from core.test_jcard_plan import ENV, SENTINEL, everything
from ctrl_c import Interrupt, bytecode_of_3_11
from stereos_proto import InjectSecret, InjectSSHKey, JcardError, Mount
from stereos_proto_io import _files, read_jcard
from stereos_proto_io._files import MAX_PROMPT_SIZE, prompt_reader


@pytest.fixture
def card(tmp_path):
    folder = tmp_path / "proj"
    folder.mkdir()
    return folder / "jcard.toml"


def refusal(path):
    with pytest.raises(JcardError) as caught:
        read_jcard(path, env=ENV)
    assert SENTINEL not in everything(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_becomes_a_plan(card, kind):
    card.write_bytes("\ufeff# é\r\n[[shared]]\r\nguest='/a'\r\n[secrets]\r\nA='${X}'".encode())
    keys = (InjectSSHKey("admin", "ssh-ed25519 AAAA"),)
    plan = read_jcard(kind(card), env=ENV, fs_type="virtiofs", ssh_keys=keys)
    assert plan.mounts == (Mount("share0", "/a", "virtiofs"),)
    assert plan.secrets == (InjectSecret("A", ENV["X"]),)
    assert plan.ssh_keys == keys
    # A machine without a name is called like the folder of its file.
    assert tomllib.loads(plan.config)["name"] == "proj"


def test_a_path_without_a_folder(card, monkeypatch):
    card.write_text("")
    monkeypatch.chdir(card.parent)
    assert tomllib.loads(read_jcard("jcard.toml", env={}).config)["name"] == "proj"


def test_what_only_the_reference_refuses(card):
    card.write_text("[network]\nmode='host'")
    assert str(refusal(card)) == f"{card}, line 2: network.mode must be one of nat, bridged or none"
    assert read_jcard(card, env={}, strict=False).warnings == (
        f"{card}, line 2: network.mode must be one of nat, bridged or none",
    )


def test_a_missing_file(card):
    error = refusal(card)
    assert str(error) == f"{card}: cannot be read: No such file or directory"
    assert isinstance(error.__cause__, FileNotFoundError)
    assert (error.line, error.key) == (0, "")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no endless file")
def test_an_endless_file():
    assert str(refusal("/dev/zero")) == "/dev/zero: it is longer than 16 MiB, which is the most that is read"


def test_the_longest_file(card):
    text = b"[[agents]]\nharness='custom'\n#"
    card.write_bytes(text + b"x" * (16 * 1024 * 1024 - len(text)))
    assert read_jcard(card, env=ENV).agents == ("custom",)
    card.write_bytes(card.read_bytes() + b"x")
    assert "it is longer than 16 MiB" in str(refusal(card))


def test_a_folder(tmp_path):
    assert str(refusal(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_name_that_no_file_can_have():
    with pytest.raises(JcardError, match="cannot be read"):
        read_jcard("a\0b", env={})


def test_what_is_not_utf8(card):
    card.write_bytes(f"[secrets]\nA='{SENTINEL}'\n".encode() + b"B='\xff'")
    error = refusal(card)
    assert str(error) == f"{card}, line 3: not UTF-8"
    assert error.line == 3


def test_what_is_wrong_inside(card):
    card.write_text(f"[secrets]\nA='{SENTINEL}${{NOPE}}'")
    error = refusal(card)
    assert str(error) == f"{card}, line 2: secrets.A needs the environment variable NOPE, which is not set"


@bytecode_of_3_11
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # one may come between the open and its block
@pytest.mark.parametrize("end", ["", "\udcff"])
def test_a_ctrl_c_shows_no_secret(card, end):
    """Where `read_jcard` itself begins, it has only what its caller gave it."""
    card.write_text(f"[secrets]\nA='${{X}}'\nB='{SENTINEL}'\n{end}", errors="surrogateescape")
    for number in itertools.count(2):
        before = sys.gettrace()
        sys.settrace(Interrupt(number))
        try:
            read_jcard(card, env=ENV)
        except KeyboardInterrupt as exc:
            sys.settrace(before)
            shown = everything(exc)
        except JcardError:
            break
        else:
            break
        finally:
            sys.settrace(before)
        assert SENTINEL not in shown
    assert number > 10


# -- prompts ---------------------------------------------------------------------------------------------------


def agent(card, path):
    """The agent that is sent, and the warnings, of a file with that `prompt_file`."""
    card.write_text(f"[[agents]]\nharness='custom'\nprompt_file='{path}'")
    plan = read_jcard(card, env={"PROMPT": "p.md"})
    return tomllib.loads(plan.config)["agents"][0], plan.warnings


@pytest.mark.parametrize(
    "path", ["p.md", "./p.md", "a/../p.md", "a/link.md", "${PROMPT}", "FOLDER/p.md", "~/proj/p.md"]
)
def test_a_prompt_inside_the_folder_is_sent(card, path, monkeypatch):
    monkeypatch.setenv("HOME", str(card.parent.parent))
    (card.parent / "p.md").write_bytes(" é\r\n".encode())
    (card.parent / "a").mkdir()
    (card.parent / "a" / "link.md").symlink_to(card.parent / "p.md")
    sent, warnings = agent(card, path.replace("FOLDER", str(card.parent)))
    assert (sent["prompt"], warnings) == (" é\r\n", ())


def test_the_folder_itself_may_be_a_link(card, tmp_path):
    (card.parent / "p.md").write_text("hello")
    (tmp_path / "link").symlink_to(card.parent)
    assert agent(tmp_path / "link" / "jcard.toml", "p.md")[0]["prompt"] == "hello"


@pytest.mark.parametrize("size", [MAX_PROMPT_SIZE, MAX_PROMPT_SIZE + 1])
def test_how_long_a_prompt_may_be(card, size):
    (card.parent / "p.md").write_text("x" * size)
    sent, warnings = agent(card, "p.md")
    if size > MAX_PROMPT_SIZE:
        assert sent["prompt_file"] == "p.md"
        assert "(it is longer than 256 KiB)" in warnings[0]
    else:
        assert sent["prompt"] == "x" * size


OUTSIDE = "it lies outside of the jcard's folder"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../id", OUTSIDE),
        ("FOLDER/../id", OUTSIDE),
        ("~/id", OUTSIDE),
        ("/etc/hostname", OUTSIDE),
        # A jcard.toml from a stranger brings its links along.
        ("link", OUTSIDE),
        ("folder/id", OUTSIDE),
        ("loop", "Too many levels of symbolic links"),
        ("gone", "No such file or directory"),
        ("p.md/x", "Not a directory"),
        (".", "Is a directory"),
        ("fifo", "it is no regular file"),
        ("/dev/zero", OUTSIDE),
        ("latin1", "it is not UTF-8"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_not_read_stays_a_path(card, path, why, monkeypatch):
    folder, home = card.parent, card.parent.parent
    monkeypatch.setenv("HOME", str(home))
    (home / "id").write_text(SENTINEL)
    (folder / "link").symlink_to(home / "id")
    (folder / "folder").symlink_to(home)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "p.md").write_text("hello")
    (folder / "latin1").write_bytes(b"\xe9")
    os.mkfifo(folder / "fifo")
    path = path.replace("FOLDER", str(folder))
    sent, warnings = agent(card, path)
    assert (sent["prompt_file"], "prompt" in sent) == (path, False)
    [warning] = warnings
    assert f"is sent as a path of the guest ({why});" in warning
    assert SENTINEL not in str(sent) + warning


@pytest.mark.parametrize("by_folders", [True, False], ids=["with dir_fd", "without"])
@pytest.mark.parametrize("replaced", ["the folder", "the file"])
def test_a_link_that_comes_after_the_check_is_not_followed(card, replaced, by_folders, monkeypatch):
    """What is shared with a guest can be written by an agent there, at any moment."""
    folder, home = card.parent / "prompts" / "of" / "mine", card.parent.parent / "home"
    folder.mkdir(parents=True)
    home.mkdir()
    (home / "id").write_text(SENTINEL)
    (folder / "id").write_text("a prompt")
    place, target = {"the folder": (folder, home), "the file": (folder / "id", home / "id")}[replaced]
    swapped = []
    realpath = os.path.realpath

    def check(path):
        found = realpath(path)
        if found == realpath(folder / "id") and not swapped:
            swapped.append(place.rename(card.parent / "before"))
            place.symlink_to(target)
        return found

    monkeypatch.setattr(_files, "_OPENS_IN_FOLDERS", by_folders)
    monkeypatch.setattr(os.path, "realpath", check)
    sent, [warning] = agent(card, "prompts/of/mine/id")
    assert swapped
    assert sent["prompt_file"] == "prompts/of/mine/id"
    assert SENTINEL not in str(sent) + warning


def test_the_descriptors_of_the_folders_are_closed(card):
    (card.parent / "a" / "b").mkdir(parents=True)
    (card.parent / "a" / "b" / "p.md").write_text("hello")
    before = len(list(Path("/dev/fd").iterdir()))
    for path in ("a/b/p.md", "a/b/gone", "a/gone/p.md", "a/b/p.md/x"):
        agent(card, path)
    assert len(list(Path("/dev/fd").iterdir())) <= before


def test_a_name_of_a_prompt_that_no_file_can_have(card):
    with pytest.raises(ValueError, match="null"):
        prompt_reader(card.parent)("a\0b")
