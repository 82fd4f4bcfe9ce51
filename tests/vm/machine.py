"""A machine that QEMU emulates: started, spoken to, paused, reset, killed. None outlives the tests."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from stereos_proto_io.addresses import TCP, Address, HybridVsock, VirtioSerial

from . import parts

#: Seconds from power-on to a guest agent that listens, on a busy machine.
BOOT_TIME: Final = 90.0
#: Seconds until a program that was started has made its sockets.
_START_TIME: Final = 60.0
_COMMAND_LINE: Final = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=1 tsc=reliable"
#: Should the tests be killed, their machines go with them. A guest with a guest of its own takes it along anyway.
_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
#: Where a guest's agent listens.
LISTENING: Final = ("tcp://0.0.0.0:1024", "vsock://3:1024", "serial:///dev/virtio-ports/org.stereos.control")


class MachineError(Exception):
    """The machine did not do what a test needs. The text ends with what its console said last."""


class Machine:
    """A machine. `addresses` says where its guest is reached, by the transport's name, before it is turned on.

    `muxed`: with a hybrid vsock. `shares`: folders that the guest can mount, by tag. `arguments`: more of
    QEMU's. `accelerator` and processor are emulated by default.
    """

    def __init__(
        self,
        image: Path,
        *,
        kernel: Path | None = None,
        accelerator: tuple[str, str] = ("tcg,thread=multi", "max"),
        muxed: bool = False,
        memory: int = 320,
        processors: int = 1,
        shares: dict[str, Path] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        # The path of a unix socket is short, and a folder of pytest's is not.
        self.folder = Path(tempfile.mkdtemp(prefix="vm-"))
        tcp = _free_place()
        self.addresses: dict[str, Address] = {
            "tcp": tcp,
            "serial": VirtioSerial(str(self.folder / "control")),
        }
        if muxed:
            self.addresses["hybrid"] = HybridVsock(str(self.folder / "vsock"))
        self.qemu: subprocess.Popen[bytes] | None = None
        self.muxer: subprocess.Popen[bytes] | None = None
        #: The runtime of the agent, "" for the one that the guest boots with, None for none.
        self.agent: str | None = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._keeper: Lines | None = None
        self._orders = itertools.count(1)
        self._image = image
        self._kernel = kernel
        self._accelerator = accelerator
        self._memory = memory
        self._processors = processors
        self._arguments = [word for tag, folder in (shares or {}).items() for word in _share(tag, folder)]
        self._arguments += arguments
        self._forward = f"hostfwd=tcp:{tcp.host}:{tcp.port}-:1024"

    def power_on(self) -> Self:
        """Start the machine. Raises MachineError."""
        if "hybrid" in self.addresses:
            self.muxer = self._start_muxer()
        accelerator, processor = self._accelerator
        qemu = parts.qemu()
        self.qemu = self._start(
            qemu.environment,
            *(str(qemu.program), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-accel", accelerator, "-cpu", processor, "-smp", str(self._processors), "-m", str(self._memory)),
            *("-kernel", str(self._kernel or parts.kernel().image), "-initrd", str(self._image)),
            *("-append", _COMMAND_LINE),
            *("-serial", f"file:{self.folder}/console", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"),
            *self._devices(),
            *self._arguments,
        )
        return self

    def _devices(self) -> Iterator[str]:
        # Memory that a muxer can share, for all machines alike.
        yield from ("-object", f"memory-backend-memfd,id=mem,size={self._memory}M,share=on")
        yield from ("-M", "pc,memory-backend=mem")
        yield from ("-netdev", f"user,id=net,restrict=on,{self._forward}")
        yield from ("-device", "virtio-net-pci,netdev=net,romfile=")
        yield from ("-device", "virtio-serial-pci")
        for name in ("control", "test"):
            yield from ("-chardev", f"socket,id={name},path={self.folder}/{name},server=on,wait=off")
            yield from ("-device", f"virtserialport,chardev={name},name=org.stereos.{name}")
        if self.muxer:
            yield from ("-chardev", f"socket,id=muxer,path={self.folder}/backend")
            yield from ("-device", "vhost-user-vsock-pci,chardev=muxer")

    def _start_muxer(self) -> subprocess.Popen[bytes]:
        backend = self.folder / "backend"
        program = str(parts.muxer())
        muxer = self._start({}, program, "--vm", f"guest-cid=3,uds-path={self.folder}/vsock,socket={backend}")
        deadline = time.monotonic() + _START_TIME
        while not backend.exists():
            if muxer.poll() is not None or time.monotonic() > deadline:
                raise MachineError(f"the muxer did not start: {self.log()}")
            time.sleep(0.01)
        return muxer

    def _start(self, environment: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **environment}
        with (self.folder / "programs").open("ab") as log:
            process = subprocess.Popen(
                (*_WITH_US, *command), env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what belongs to the machine, and remove its files. Twice is fine."""
        if self._keeper:
            self._keeper.close()
        for process in self._processes:
            self._end(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes] | None) -> None:
        if process:
            process.kill()
            process.wait()

    @property
    def is_running(self) -> bool:
        """Whether QEMU runs."""
        return self.qemu is not None and self.qemu.poll() is None

    def log(self) -> str:
        """What console and programs have said: the last 40 lines of each."""
        texts = []
        for name in ("console", "programs"):
            path = self.folder / name
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            texts.append("\n".join([f"--- {name}", *lines[-40:]]))
        return "\n".join(texts)

    # ---------------------------------------------------------------------------------- the guest

    def wait_up(self, timeout: float = BOOT_TIME) -> Self:
        """Wait until the guest's agent listens. Raises MachineError."""
        self.run("cat", "/proc/uptime", timeout=timeout)
        return self

    def run(self, *argv: str, stdin: str = "", timeout: float = 60) -> str:
        """Run a command in the guest and return what it wrote. Raises MachineError when it fails."""
        result = self.order("run", timeout=timeout, argv=argv, stdin=stdin)
        if result["status"]:
            raise MachineError(f"{argv[0]} failed in the guest: {result['output']}{result['errors']}")
        return result["output"]

    def call(self, module: str, function: str, *arguments: Any, timeout: float = 60) -> Any:
        """Call a function of `guest/` in the guest and return its result. Raises MachineError when it raises."""
        answer = self.order("call", timeout=timeout, module=module, function=function, arguments=arguments)
        if "error" in answer:
            raise MachineError(f"{module}.{function} failed in the guest: {answer['error']}")
        return answer["result"]

    def start_agent(self, runtime: str = "", *faults: str, stays: bool = False, **options: str) -> str:
        """Start another agent in the guest, and return what it says once it listens.

        With a `runtime`, it is a server of that, with `faults` and `options` as `guest/agent.py` knows them;
        otherwise it is the one that a guest boots with. The machine is turned off with it, or `stays`.
        """
        self.agent = runtime
        if not runtime:
            return self.order("start")
        chosen = json.dumps({"runtime": runtime, "faults": faults, **options})
        return self.order("start", module="agent", arguments=(chosen, *LISTENING), stays=stays)

    def agent_process(self) -> int:
        """The process id of the agent in the guest."""
        return int(self.order("agent"))

    def stop_agent(self) -> None:
        """Kill the guest's agent: from now on nobody listens."""
        self.agent = None
        self.order("stop")

    @contextmanager
    def deaf_agent(self, backlog: int) -> Iterator[None]:
        """Start the agent anew, with a queue of so many connections, and have it accept none of them for a while."""
        limit = "/proc/sys/net/core/somaxconn"
        before = self.run("cat", limit)
        self.run("sh", "-c", f"echo {backlog} >{limit}")
        try:
            self.start_agent()
            self.order("signal", name="SIGSTOP")
            yield
            self.order("signal", name="SIGCONT")
        finally:
            self.run("sh", "-c", f"echo {before.strip()} >{limit}")

    def restore_agent(self) -> None:
        """Have the agent that the guest boots with."""
        if self.agent != "":
            self.start_agent()

    def order(self, what: str, *, timeout: float = 60, **details: Any) -> Any:
        """Have the guest's keeper do something, and return what it tells. Raises MachineError."""
        number = next(self._orders)
        try:
            if self._keeper is None:
                self._keeper = Lines(self.folder / "test", lambda: self.is_running)
            self._keeper.send({"id": number, "do": what, **details})
            return next(answer["result"] for answer in self._keeper.receive(timeout) if answer["id"] == number)
        except (OSError, StopIteration) as exc:
            raise MachineError(f"the guest did not answer {what!r} within {timeout} s: {exc!r}\n{self.log()}") from exc

    # -------------------------------------------------------------------------------- the hardware

    def command(self, name: str, **arguments: Any) -> Any:
        """Have QEMU do something (QMP), and return what it answers. Raises MachineError."""
        monitor = Lines(self.folder / "qmp", lambda: self.is_running)
        try:
            monitor.send({"execute": "qmp_capabilities", "id": "hello"})
            monitor.send({"execute": name, "arguments": arguments, "id": "command"})
            for answer in monitor.receive(20):
                if answer.get("id") == "command":
                    if "error" in answer:
                        raise MachineError(f"{name}: {answer['error']}")
                    return answer["return"]
        finally:
            monitor.close()
        raise MachineError(f"QEMU did not answer {name}\n{self.log()}")

    def pause(self) -> None:
        """Stop the processor."""
        self.command("stop")

    def resume(self) -> None:
        """Let the processor go on, where it stands still and the machine is still there."""
        if self.is_running:
            self.command("cont")

    def reset(self) -> None:
        """Press the reset button. The guest boots again, with the agent that it boots with."""
        self.agent = ""
        self.command("set-action", reboot="reset")
        self.command("system_reset")

    def kill(self) -> None:
        """Kill QEMU, as a crash would."""
        self._end(self.qemu)

    def kill_muxer(self) -> None:
        """Kill what gives the machine its hybrid vsock."""
        self._end(self.muxer)

    def wait_off(self, timeout: float) -> None:
        """Wait until QEMU has ended. Raises MachineError."""
        deadline = time.monotonic() + timeout
        while self.is_running:
            if time.monotonic() > deadline:
                raise MachineError(f"the machine did not turn off within {timeout} s\n{self.log()}")
            time.sleep(0.02)


class Lines:
    """JSON lines over a unix socket that QEMU makes soon."""

    def __init__(self, path: Path, may_come: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_TIME
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if not may_come() or time.monotonic() > deadline:
                    self._socket.close()
                    raise
                time.sleep(0.01)
        self._rest = b""

    def send(self, value: Any) -> None:
        """Write a line."""
        self._socket.settimeout(20)
        self._socket.sendall(json.dumps(value).encode() + b"\n")

    def receive(self, timeout: float) -> Iterator[Any]:
        """Yield what comes, for `timeout` seconds or until the end. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            while b"\n" not in self._rest:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                data = self._socket.recv(1 << 16)
                if not data:
                    return
                self._rest += data
            line, _, self._rest = self._rest.partition(b"\n")
            yield json.loads(line)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _share(tag: str, folder: Path) -> Iterator[str]:
    yield from ("-fsdev", f"local,id={tag},path={folder},security_model=none")
    yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _free_place() -> TCP:
    """Where QEMU may listen: hosts wait for it before QEMU has it, so it cannot choose a place itself.

    All of 127/8 is loopback, and nobody else has our address of it: until QEMU binds, the port stays free.
    """
    host = "127." + ".".join(str(secrets.randbelow(254) + 1) for _ in range(3))
    with socket.socket() as sock:
        sock.bind((host, 0))
        return TCP(host, sock.getsockname()[1])
