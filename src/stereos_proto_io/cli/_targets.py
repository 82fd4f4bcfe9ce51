"""Which guests a command is about: from addresses, names of virtual machines, globs, `--all`, the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

import attrs
from cyclopts import Parameter

from stereos_proto import RemoteProtocolError, StereosError
from stereos_proto_io.addresses import SCHEMES, TCP, Address, HybridVsock, UnixSocket, VirtioSerial, parse_address

from ._console import say
from ._deadline import ASK_SECONDS, FOREVER, Deadline
from ._errors import GuestError, UsageError
from ._machines import Machine, find, is_pattern, machines, machines_folder, names, no_machines, nothing_named
from ._options import DURATION, GUEST, MANY, ConfigDir, Verbose, option, repeated, whole_number

#: Guests that are asked at the same time unless `--parallel` says otherwise.
AT_ONCE: Final = 32

#: What to do where there is no guest.
TRY_THESE: Final = "`stereosctl ls` lists mb's virtual machines, `stereosctl simulate` makes a guest to try"
_WHICH: Final = f"which guest? Give its address (tcp://127.0.0.1:1024), --vm NAME, or set STEREOS_ADDRESS; {TRY_THESE}"


@attrs.frozen(eq=False, repr=False)
class Target:
    """A guest as the user named it, and where it is."""

    #: The name of its virtual machine, or its address.
    name: str
    #: None where it cannot be reached.
    address: Address | None
    #: Why it cannot be reached.
    problem: str = ""

    @classmethod
    def at(cls, address: Address) -> Target:
        """A guest that was named by its address."""
        return cls(str(address), address)

    def reached(self) -> Address:
        """Its address. Raises UsageError where it has none."""
        if self.address is None:
            raise UsageError(f"{self.name}: {self.problem}")
        return self.address

    @property
    def public(self) -> tuple[str, str]:
        """What is no secret, even where a secret has it: what the user typed, and what `stereosctl ls` shows."""
        return self.name, str(self.address or "")

    def sentence(self, error: BaseException, clean: Callable[[str], str] = str) -> str:
        """The text of an error about this guest, with the name that the user typed. `clean` takes out the secrets.

        They are taken out first: a secret may have the address in it, and would not be found with a name in its place.
        """
        text = clean(str(error))
        if self.address is not None:
            text = text.replace(str(self.address), self.name)
        if isinstance(self.address, VirtioSerial) and isinstance(error, RemoteProtocolError):
            text += "; a serial port takes one host at a time: see that no other has it open"
        return text


@contextmanager
def about(target: Target) -> Iterator[None]:
    """Turn an error of the library into one that names the guest as the user does."""
    try:
        yield
    except StereosError as exc:
        raise GuestError(target.sentence(exc), exc) from exc


#: The guest of the shell, which commands are about that name none.
_of_the_shell: Target | None = None


@contextmanager
def by_default(target: Target) -> Iterator[None]:
    """Let commands that name no guest be about `target`, for the length of a `with`."""
    global _of_the_shell  # noqa: PLW0603  (one shell runs in one process)
    _of_the_shell = target
    try:
        yield
    finally:
        _of_the_shell = None


def in_shell() -> bool:
    """Whether commands are typed into `stereosctl shell`, or come to it on standard input."""
    return _of_the_shell is not None


def _default() -> Target:
    if _of_the_shell is not None:
        return _of_the_shell
    # Read here and not by the parser, for which it would be as if it had been typed.
    text = os.environ.get("STEREOS_ADDRESS")
    if not text:
        raise UsageError(_WHICH)
    try:
        return Target.at(address_of(text))
    except UsageError as exc:
        raise UsageError(f"STEREOS_ADDRESS: {exc}") from None


def looks_like_address(text: str) -> bool:
    """Whether a text begins as an address does."""
    scheme, colon, _ = text.partition("://")
    return bool(colon) and scheme.lower() in SCHEMES


#: Returns the folder of mb's virtual machines. It is only called where the folder is used: it may not be there.
Folder = Callable[[], Path]

#: What an address looks like.
_FORMS: Final = (
    "an address looks like tcp://HOST:PORT, vsock://CID:PORT, unix:///PATH, serial:///PATH or hvsock:///PATH:PORT"
)
_BY_NAME: Final = "; a virtual machine of mb's is named by --vm NAME"
#: Texts that were most likely meant as an address, and the address. No secret is likely to look like them.
_MEANT: Final = (
    (re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}", re.ASCII), "tcp://{}"),
    (re.compile(r"/[\w./@+-]+|[\w./@+-]+\.sock", re.ASCII), "unix://{}"),
)
#: What may be the name of a virtual machine.
_NAME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]{0,39}")


def address_of(text: str, folder: Folder | None = None, *, secret: str = "") -> Address:
    """`parse_address`, with a UsageError. `folder` is where a virtual machine of that name is looked for.

    `secret` is for commands where a secret may stand in the place of the address: how the secret is given instead. What
    is no address is not repeated then.
    """
    if not looks_like_address(text):
        if folder is not None and text in _known(folder):
            raise UsageError(f"{text!r} is no address, but a virtual machine of mb's: --vm {text}")
        raise UsageError(f"{secret}; {_FORMS}" if secret else _no_address(text, "" if folder is None else _BY_NAME))
    try:
        return parse_address(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from None


def _known(folder: Folder) -> list[str]:
    """The names of the virtual machines, none where they cannot be listed: they are only a hint."""
    try:
        return names(folder())
    except UsageError:
        return []


def _no_address(text: str, by_name: str) -> str:
    """What to say of a text that is no address. It is repeated where it looks like an address or a name."""
    for pattern, form in _MEANT:
        if pattern.fullmatch(text):
            return f"{text!r} is no address; did you mean {form.format(text)}?"
    if _NAME.fullmatch(text):
        return f"{text!r} is no address; {_FORMS}{by_name}"
    return f"the text in the place of the guest's address is no address, and is not shown; {_FORMS}{by_name}"


def canonical(name: str) -> str:
    """The name under which a guest is known: an address may be written in several ways. Raises UsageError."""
    return str(address_of(name)) if looks_like_address(name) else name


@contextmanager
def listening_at(*places: Address) -> Iterator[None]:
    """Turn what is wrong with places to listen at into a UsageError."""
    try:
        yield
    except OSError as exc:
        raise UsageError(f"cannot listen at {', '.join(map(str, places))}: {exc.strerror}") from None
    except ValueError as exc:
        raise UsageError(str(exc)) from None


def _of_machine(machine: Machine) -> Target:
    return Target(machine.name, machine.address, machine.problem)


def checked_seconds(option_: str, value: float) -> float:
    """`value`, where it can be waited for. Raises UsageError."""
    if not value > 0:
        raise UsageError(f"{option_} must be more than 0 seconds, not {value:g}")
    return min(value, FOREVER)


@Parameter(name="*")
@attrs.frozen(eq=False, repr=False)
class Place:
    """Which guest."""

    address: Annotated[str | None, Parameter(group=GUEST)] = None
    """tcp://HOST:PORT, vsock://CID:PORT, unix:///PATH, hvsock:///PATH:PORT or serial:///PATH; else STEREOS_ADDRESS."""

    vm: Annotated[str | None, option("--vm", takes="NAME", group=GUEST)] = attrs.field(default=None, kw_only=True)
    """The name of a virtual machine of mb's, instead of an address. `stereosctl ls` lists them."""

    config_dir: ConfigDir = attrs.field(default=None, kw_only=True)
    """mb's configuration folder. By default MB_CONFIG_DIR, what config.toml says, or ~/.config/mb."""

    def target(self, *, secret: str = "") -> Target:
        """The guest that was named in one of the ways, with an address. Raises UsageError.

        `secret` is that of `address_of`.
        """
        if self.vm is not None and self.address is not None:
            raise UsageError("which guest? Give its address or --vm NAME, and not both")
        folder = partial(machines_folder, flag=self.config_dir)
        if self.vm is not None:
            target = _of_machine(find(self.vm, folder()))
        else:
            target = _default() if self.address is None else Target.at(address_of(self.address, folder, secret=secret))
        target.reached()
        return target


@Parameter(name="*")
@attrs.frozen(eq=False, repr=False)
class Guest(Place):
    """Which guest, how long, and whether to show the wire."""

    timeout: Annotated[float | None, option("--timeout", group=GUEST, **DURATION)] = attrs.field(
        default=None, kw_only=True
    )
    """For everything together, dialling included: 90, 30s, 2m. By default 10 s; 60 s for replay."""

    verbose: Verbose = attrs.field(default=False, kw_only=True)
    """Trace the wire on stderr, without secrets."""

    def checked(self, *, secret: str = "") -> Target:
        """The guest, for a command that reads something before it asks. Raises UsageError, also for the timeout.

        `secret` is that of `address_of`.
        """
        self.deadline()
        return self.target(secret=secret)

    def deadline(self, default: float = ASK_SECONDS) -> Deadline:
        """When the command has to be done. Raises UsageError."""
        return Deadline.after(default if self.timeout is None else checked_seconds("--timeout", self.timeout))


@Parameter(name="*")
@attrs.frozen(eq=False, repr=False)
class Guests:
    """Which guests, how long each and all, and whether to show the wire."""

    address: Annotated[tuple[str, ...], Parameter(group=GUEST)] = ()
    """tcp://HOST:PORT, vsock://CID:PORT, unix:///PATH, hvsock:///PATH:PORT, serial:///PATH…; else STEREOS_ADDRESS."""

    vm: Annotated[tuple[str, ...], repeated("--vm", takes="NAME", group=GUEST)] = attrs.field(default=(), kw_only=True)
    """The name of a virtual machine of mb's, or a pattern such as 'web-*'; give it again for more."""

    all: Annotated[bool, option("--all", group=MANY)] = attrs.field(default=False, kw_only=True)
    """All virtual machines of mb's that run."""

    state: Annotated[tuple[str, ...], repeated("--state", takes="STATE", group=MANY)] = attrs.field(
        default=(), kw_only=True
    )
    """Of these, only guests that report this state; give it again for more. One that cannot be asked is a failure."""

    parallel: Annotated[int, option("--parallel", takes="N", group=MANY, converter=whole_number)] = attrs.field(
        default=AT_ONCE, kw_only=True
    )
    """How many guests are asked at the same time."""

    total_timeout: Annotated[float | None, option("--total-timeout", group=MANY, **DURATION)] = attrs.field(
        default=None, kw_only=True
    )
    """For all guests together. By default only each guest has a limit."""

    timeout: Annotated[float | None, option("--timeout", group=GUEST, **DURATION)] = attrs.field(
        default=None, kw_only=True
    )
    """Per guest: 90, 2m. By default 10 s; 60 s for wait, provision and shutdown --wait; no limit for ping and watch."""

    config_dir: ConfigDir = attrs.field(default=None, kw_only=True)
    """mb's configuration folder. By default MB_CONFIG_DIR, what config.toml says, or ~/.config/mb."""

    verbose: Verbose = attrs.field(default=False, kw_only=True)
    """Trace the wire on stderr, without secrets."""

    @property
    def many(self) -> bool:
        """Whether the user asked for any number of guests, though it may come to one."""
        globs = any(is_pattern(name) for name in self.vm)
        return self.all or globs or bool(self.state) or len(self.vm) + len(self.address) > 1

    def seconds(self, default: float = ASK_SECONDS) -> float:
        """How long each guest has. Raises UsageError."""
        return default if self.timeout is None else checked_seconds("--timeout", self.timeout)

    def check(self) -> None:
        """Raise UsageError where a limit is none."""
        if self.parallel < 1:
            raise UsageError("--parallel must be at least 1")
        self.seconds()
        self.end()

    def end(self) -> Deadline:
        """When all have to be done. Raises UsageError."""
        total = self.total_timeout
        return Deadline.after(FOREVER if total is None else checked_seconds("--total-timeout", total))

    def targets(self, *, secret: str = "") -> list[Target]:
        """The guests, each once, in the order in which they were named. Raises UsageError when there is none.

        `secret` is that of `address_of`.
        """
        self.check()
        folder = partial(machines_folder, flag=self.config_dir)
        found = [Target.at(address_of(text, folder, secret=secret)) for text in self.address]
        for name in self.vm:
            found += _matching(name, folder()) if is_pattern(name) else [_of_machine(find(name, folder()))]
        if self.all:
            found += _running(folder())
        if not found and not self.all:
            found = [_default()]
        return _each_once(found)


#: The addresses that `localhost` stands for.
_LOCALHOST: Final = ("127.0.0.1", "::1")


def _each_once(found: Iterable[Target]) -> list[Target]:
    """The guests, each once. One that is named by an address, too, keeps the name of its machine, or its first address.

    `localhost` gives way to a loopback address with the same port. Two machines of mb's stay two.
    """
    named = list({target.name: target for target in found}.values())
    by_address = {target.name: target.address for target in named if target.name == str(target.address)}
    taken = {_place(target.address) for target in named if target.address and target.name not in by_address}
    everyone = taken | {_place(address) for address in by_address.values() if address}
    kept: list[Target] = []
    for target in named:
        address = by_address.get(target.name)
        if address is not None:
            place = _place(address)
            if place in taken or not everyone.isdisjoint(_other_places(address)):
                continue
            taken.add(place)
        kept.append(target)
    return kept


def _place(address: Address) -> Hashable:
    """A value that is the same for addresses which certainly lead to the same guest."""
    if isinstance(address, TCP):
        try:
            return TCP, str(ip_address(address.host)), address.port
        except ValueError:
            return TCP, address.host.lower(), address.port
    if isinstance(address, (UnixSocket, VirtioSerial, HybridVsock)):
        # As bytes: Python may read file names in another encoding than UTF-8.
        path = os.path.realpath(address.path.encode("utf-8", "surrogateescape"))
        return type(address), path, getattr(address, "port", None)
    return address


def _other_places(address: Address) -> set[Hashable]:
    """The places that a name of this machine stands for, none for any other address."""
    if isinstance(address, TCP) and address.host.lower() == "localhost":
        return {_place(TCP(host, address.port)) for host in _LOCALHOST}
    return set()


def _matching(pattern: str, folder: Path) -> list[Target]:
    everyone = machines(folder)
    found = [machine for machine in everyone if fnmatchcase(machine.name, pattern)]
    if not found:
        raise UsageError(nothing_named(pattern, folder, [machine.name for machine in everyone]))
    return _without_stopped(found)


def _running(folder: Path) -> list[Target]:
    found = machines(folder)
    if not found:
        raise UsageError(no_machines(folder))
    return _without_stopped(found)


def _without_stopped(found: list[Machine]) -> list[Target]:
    """Those that a pattern may mean. What is broken stays, and is reported; what is stopped is no fault."""
    stopped = [machine.name for machine in found if machine.stopped]
    if stopped:
        say(f"left out, as stopped: {', '.join(stopped)}", style="dim")
    return [_of_machine(machine) for machine in found if not machine.stopped]


#: What a command's `guest` is when nothing was said about it.
DEFAULT_PLACE: Final = Place()
DEFAULT_GUEST: Final = Guest()
DEFAULT_GUESTS: Final = Guests()
