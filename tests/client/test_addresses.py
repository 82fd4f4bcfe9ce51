"""Addresses as values and as text."""

import errno
import os
import re
import socket
import string
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stereos_proto_io import TCP, Dial, HybridVsock, UnixSocket, VirtioSerial, Vsock, addresses, parse_address
from stereos_proto_io.addresses import Address
from stereos_proto_io.driver import connect_error

U32_MAX = 2**32 - 1
ports = st.integers(0, 65535)
numbers = st.integers(0, U32_MAX)
labels = st.text(string.ascii_letters + string.digits + "-_éß", min_size=1, max_size=12)
NUMBER = re.compile("[0-9]+|0[xX][0-9a-fA-F]*")
hosts = (
    st.lists(labels, min_size=1, max_size=3)
    .map(".".join)
    .filter(lambda name: not re.fullmatch("[0-9]+|0[xX][0-9a-fA-F]*", name.rpartition(".")[2]))
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.builds("{}%{}".format, st.ip_addresses(v=6), st.sampled_from(["eth0", "2", "wlan0.1", "Ünder"]))
)
#: Any file name there is: bytes, whatever they mean, as Python shows them.
paths = st.binary(min_size=1, max_size=100).filter(lambda name: 0 not in name).map(os.fsdecode) | st.text(
    "%?#&;:@/\\ .~=[]\n\té1024", min_size=1, max_size=30
)


@given(
    st.builds(TCP, hosts, ports)
    | st.builds(Vsock, numbers, numbers)
    | st.builds(UnixSocket, paths)
    | st.builds(VirtioSerial, paths)
    | st.builds(HybridVsock, paths, numbers)
)
def test_an_address_reads_back_from_its_text(address):
    text = str(address)
    assert parse_address(text) == address
    assert text.isprintable()
    assert " " not in text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://localhost:2222", TCP("localhost", 2222)),
        ("tcp://localhost", TCP("localhost", 1024)),
        ("tcp://localhost/", TCP("localhost", 1024)),
        ("TCP://Host.example:1", TCP("Host.example", 1)),
        ("tcp://[::1]:0", TCP("::1", 0)),
        ("tcp://[fe80::1%eth0]", TCP("fe80::1%eth0")),
        ("vsock://3:1024", Vsock(3, 1024)),
        ("vsock://7", Vsock(7, 1024)),
        ("vsock://:5", Vsock(3, 5)),
        ("vsock://", Vsock(3, 1024)),
        ("vsock://4294967295:4294967295/", Vsock(U32_MAX, U32_MAX)),
        ("unix:///run/vm.sock", UnixSocket("/run/vm.sock")),
        ("unix://vm.sock", UnixSocket("vm.sock")),
        ("unix:///a%20b%25%3Ac", UnixSocket("/a b%:c")),
        ("unix:///a:b", UnixSocket("/a:b")),
        ("unix:///%ff", UnixSocket("/\udcff")),
        ("serial:///dev/virtio-ports/org.x", VirtioSerial("/dev/virtio-ports/org.x")),
        ("hvsock:///run/fc.sock:52", HybridVsock("/run/fc.sock", 52)),
        ("hvsock:///run/fc.sock", HybridVsock("/run/fc.sock", 1024)),
        ("hvsock:///run/a:b", HybridVsock("/run/a:b", 1024)),
        ("hvsock:///run/a:٣", HybridVsock("/run/a:٣", 1024)),
        ("hvsock:///run/a:b:7", HybridVsock("/run/a:b", 7)),
    ],
)
def test_what_is_read(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no guest address"),
        ("localhost:1024", "is no guest address"),
        ("http://localhost", "is no guest address"),
        ("dial://mine", "is no guest address"),
        ("tcp:localhost", "is no guest address"),
        ("tcp://", "host must be a name or an IP address"),
        ("tcp://:5", "host must be a name or an IP address"),
        ("tcp://h:65536", "from 0 to 65535"),
        ("tcp://h:-1", "'-1' is no number"),
        ("tcp://h:x", "'x' is no number"),
        ("tcp://h:٣", "is no number"),
        ("tcp://1.2.3:5", "is no IP address"),
        ("tcp://1.2.3.256", "is no IP address"),
        ("tcp://0x7f.1", "is no IP address"),
        ("tcp://127.0x1", "is no IP address"),
        ("tcp://2130706433", "is no IP address"),
        ("tcp://[::1", "an IPv6 address stands in brackets"),
        ("tcp://[::1]5", "an IPv6 address stands in brackets"),
        ("tcp://::1", "an IPv6 address stands in brackets"),
        ("tcp://[localhost:5]:1", "'localhost:5' is no IPv6 address"),
        ("tcp://u@h:5", "host must be a name or an IP address"),
        ("tcp://h:5/x", "only HOST:PORT may follow"),
        ("tcp://h?x", "host must be a name or an IP address"),
        ("tcp://h#x", "host must be a name or an IP address"),
        ("tcp://a b", "host must be a name or an IP address"),
        ("vsock://x", "'x' is no number"),
        ("vsock://3:1:2", "'1:2' is no number"),
        ("vsock://4294967296", "cid must be a whole number from 0 to 4294967295"),
        ("vsock://3:4294967296", "port must be a whole number from 0 to 4294967295"),
        (f"vsock://{'9' * 99}", "cid must be a whole number from 0 to 4294967295"),
        (f"vsock://{'9' * 100}", "is no number"),
        (f"vsock://{'9' * 5000}", "is no number"),
        ("unix://", "path must be the name of a file"),
        ("unix:///a%00", "without a NUL"),
        ("hvsock://", "path must be the name of a file"),
        ("hvsock://:5", "path must be the name of a file"),
        ("hvsock:///a:4294967296", "port must be a whole number from 0 to 4294967295"),
        (f"unix:///{'a' * 200}", "201 bytes long"),
    ],
)
def test_what_is_refused(text, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the words are looked for below)
        parse_address(text)
    assert words in str(caught.value)
    assert repr(text)[1:-1][:60] in str(caught.value)


@given(
    st.text(max_size=30) | st.builds("{}://{}".format, st.sampled_from(list(addresses.SCHEMES)), st.text(max_size=30))
)
def test_any_text_is_an_address_or_a_value_error(text):
    try:
        address = parse_address(text)
    except ValueError as exc:
        said = str(exc)
    else:
        assert parse_address(str(address)) == address
        return
    assert repr(text)[1:-1] in said


@pytest.mark.parametrize("number", [-1, 2**32, 2**64, 1.0, "3", None, True])
@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda number: Vsock(cid=number), "Vsock: cid"),
        (lambda number: Vsock(port=number), "Vsock: port"),
        (lambda number: HybridVsock("/a", number), "HybridVsock: port"),
        (lambda number: TCP("h", number), "TCP: port"),
    ],
)
def test_numbers_are_checked_when_an_address_is_made(make, field, number):
    with pytest.raises(ValueError, match=f"{field} must be a whole number from 0 to"):
        make(number)


@pytest.mark.parametrize("host", ["", " h", "h ", "a/b", "[::1]", "a\0", None, 5, "a@b", "a?b", "a#b", "a b", "a\n"])
def test_hosts_are_checked_when_an_address_is_made(host):
    with pytest.raises(ValueError, match="TCP: host must be"):
        TCP(host)


@pytest.mark.parametrize("kind", [UnixSocket, VirtioSerial, HybridVsock])
@pytest.mark.parametrize("path", ["", "a\0b", "\ud800"])
def test_paths_are_checked_when_an_address_is_made(kind, path):
    with pytest.raises(ValueError, match=f"{kind.__name__}: path must be"):
        kind(path)


@pytest.mark.parametrize("limit", [103, 107])
@pytest.mark.parametrize("kind", [UnixSocket, VirtioSerial, HybridVsock])
@pytest.mark.parametrize("letter", ["a", "é", "\udcff"])
def test_paths_that_no_socket_takes_are_refused(monkeypatch, limit, kind, letter):
    monkeypatch.setattr(addresses, "MAX_UNIX_PATH", limit)
    size = len(os.fsencode(letter))
    assert kind(letter * (limit // size)).path
    with pytest.raises(ValueError, match=rf"{kind.__name__}: the path is \d+ bytes long, .* take {limit}; use"):
        kind(letter * (limit // size + 1))


def test_the_longest_path_is_the_systems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        with pytest.raises(OSError, match="too long"):
            sock.bind("a" * (addresses.MAX_UNIX_PATH + 1))
        sock.bind("a" * addresses.MAX_UNIX_PATH)


def test_an_address_of_ones_own_is_a_stream_with_two_ends():
    """A subclass says so where it is otherwise."""

    class Mine(Address):
        pass

    assert Mine.has_connections
    assert Mine.can_half_close
    assert Mine.scheme == ""
    assert not Mine().fault()


def test_a_device_is_no_socket():
    path = f"/dev/virtio-ports/{'a' * 120}"
    assert VirtioSerial(path).path == path
    with pytest.raises(ValueError, match="bytes long"):
        UnixSocket(path)


@pytest.mark.parametrize(
    ("address", "file"),
    [
        (UnixSocket("/a b"), "/a b"),
        (HybridVsock("/a b", 5), "/a b"),
        (VirtioSerial("/a b"), "/a b"),
        (VirtioSerial("/dev/null"), ""),
        (TCP("::1", 1), ""),
        (Vsock(3), ""),
    ],
)
def test_which_addresses_have_a_socket_file(address, file):
    assert address.socket_file == file


def test_paths_may_be_path_objects(tmp_path):
    assert UnixSocket(tmp_path / "s").path == str(tmp_path / "s")


@pytest.mark.parametrize("path", [None, 3])
def test_what_is_no_path_is_no_name_of_one(path):
    with pytest.raises(TypeError):
        UnixSocket(path)


def test_paths_as_bytes_are_refused():
    with pytest.raises(ValueError, match="path must be"):
        UnixSocket(b"/a")


@pytest.mark.parametrize("function", [None, "tcp://127.0.0.1:1024", object()])
def test_what_cannot_be_called_is_no_dial(function):
    with pytest.raises(TypeError, match="callable"):
        Dial(function)


def test_a_dial_shows_its_label():
    address = Dial(lambda: None, "my tunnel")
    assert str(address) == "dial://my tunnel"
    assert "lambda" not in repr(address)


def test_an_address_of_ones_own():
    """One class, which is read by `parse_address` once it has a scheme."""
    known = dict(addresses.SCHEMES)
    bare = Address()
    assert (bare.name(), bare.attempts(), bare.open(), list(bare.preambles()), bare.fault()) == (None, [], None, [], "")
    assert (bare.socket_file, bare.device, bare.hybrid_ports) == ("", "", None)
    assert bare.bound(None) is bare
    with pytest.raises(ValueError, match="cannot listen"):
        bare.listeners()
    with pytest.raises(ValueError, match="cannot be written as text"):
        Address.parse("x")

    class Fd(Address):
        scheme = "fd"

        def __init__(self, number):
            self.number = number

        @classmethod
        def parse(cls, rest):
            return cls(int(rest))

        def __str__(self):
            return f"fd://{self.number}"

    try:
        assert parse_address("fd://7").number == 7
    finally:
        addresses.SCHEMES.clear()
        addresses.SCHEMES.update(known)


def test_a_dial_has_no_listener():
    with pytest.raises(ValueError, match="a Dial can only connect"):
        Dial(lambda: None).listeners()


def test_a_listener_of_vsock_is_bound_to_any_cid(monkeypatch):
    """No socket is made: only what would be bound to."""
    monkeypatch.setattr("socket.AF_VSOCK", 40, raising=False)
    assert Vsock(7, 99).listeners() == [(40, (U32_MAX, 99))]


def test_what_stands_at_a_path_is_told(tmp_path):
    (tmp_path / "f").write_text("")
    assert VirtioSerial("/dev/null").device == "/dev/null"
    assert VirtioSerial("/dev/null").fault() == ""
    assert VirtioSerial("/dev/null").socket_file == ""
    assert VirtioSerial(tmp_path / "f").socket_file == str(tmp_path / "f")
    assert UnixSocket(tmp_path / "none").fault() == ""
    assert HybridVsock(tmp_path / "f", 7).hybrid_ports == {7}
    assert UnixSocket(tmp_path / "f").listeners() == [(1, str(tmp_path / "f"))]


@pytest.mark.parametrize("host", ["127.0.0.1:41024", "localhost:5", ":", "::1:zz", "fe80::1%"])
def test_a_host_with_a_colon_is_an_ipv6_address(host):
    with pytest.raises(ValueError, match="is no IPv6 address; pass the port as a separate argument"):
        TCP(host)


@pytest.mark.parametrize("host", ["::1", "fe80::1%eth0", "::ffff:127.0.0.1"])
def test_ipv6_addresses(host):
    assert parse_address(str(TCP(host, 5))) == TCP(host, 5)


def test_port_0_is_not_dialled_again_and_again():
    error = connect_error(TCP("127.0.0.1", 0), ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))
    assert not error.retryable
    assert "port 0 is for listening only" in str(error)


@pytest.mark.parametrize(
    "host",
    [
        "\uff11\uff12\uff17.1",  # full-width digits
        "127\u30021",  # an ideographic full stop
        "127\uff611",
        "127\uff0e1",
        "127\u20241",  # a one dot leader
        "\u2460.\u2461",  # circled digits
        "127.\u034f1",  # a character that a look-up leaves out
        "\uff11\uff12\uff17.0.0.1",
        "\uff10x7f.1",
        "m\u00fcnchen.\uff11",
    ],
)
def test_digits_and_dots_of_other_scripts_are_read_as_a_look_up_reads_them(host):
    """The system would complete each of them to an address that was not meant."""
    with pytest.raises(ValueError, match="is no IP address: it needs four numbers from 0 to 255"):
        TCP(host)


@pytest.mark.parametrize("host", ["a\uff0fb", "\u2100", "\uff20h", "h\uff1f"])
def test_a_host_that_a_look_up_would_not_read_as_one_name(host):
    with pytest.raises(ValueError, match="must be a name or an IP address"):
        TCP(host)


@pytest.mark.parametrize("host", ["m\u00fcnchen.example", "\u4f8b\u3048.jp", "x" * 70 + "\u00fc", "\uff41\uff42"])
def test_a_name_of_any_script_is_a_host(host):
    assert TCP(host).host == host


@pytest.mark.parametrize("kind", [UnixSocket, VirtioSerial, HybridVsock])
def test_a_path_has_one_text(kind):
    """The same bytes, however they came: as a character, or one by one."""
    assert kind("/\udcc3\udca9") == kind("/\u00e9")
    for path in ("/\udcc3\udca9", "/\udcff", "/\u00e9\udcc3"):
        assert parse_address(str(kind(path))) == kind(path)


@pytest.mark.parametrize(
    ("address", "has_connections", "can_half_close"),
    [
        (TCP("vm"), True, True),
        (Vsock(3), True, True),
        (UnixSocket("/vm"), True, True),
        (HybridVsock("/vm"), True, False),
        (VirtioSerial("/vm"), False, False),
        (Dial(lambda: None), True, True),
    ],
)
def test_what_kind_of_stream_it_leads_to(address, has_connections, can_half_close):
    assert address.has_connections is has_connections
    assert address.can_half_close is can_half_close


def test_a_place_where_nothing_is_has_no_fault_and_no_device(tmp_path):
    for cls in (UnixSocket, VirtioSerial, HybridVsock):
        assert cls(tmp_path / "nothing").fault() == ""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert UnixSocket(tmp_path / "socket").fault() == ""
    assert VirtioSerial(tmp_path / "nothing").device == ""
    assert VirtioSerial(tmp_path).device == ""


def test_an_old_name_says_what_to_write():
    with pytest.warns(DeprecationWarning, match=r"write 2\*\*32 - 1"):
        assert addresses.U32_MAX == U32_MAX
    with pytest.raises(AttributeError, match="NOTHING"):
        _ = addresses.NOTHING


def test_a_class_of_addresses_takes_no_arguments():
    with pytest.raises(TypeError):
        type("Mine", (Address,), {}, color="red")


#: What a caller hands over by mistake, such as the value of a variable that is not set.
WRONG = (None, 5, object())
#: What takes text → what it says that it takes.
TAKERS = {
    "parse_address": (parse_address, "parse_address takes text such as"),
    **{
        f"{kind.__name__}.parse": (kind.parse, f"{kind.__name__}.parse takes text such as")
        for kind in addresses.SCHEMES.values()
    },
    **{
        kind.__name__: (kind, "a path must be a string or a path object")
        for kind in (UnixSocket, VirtioSerial, HybridVsock)
    },
    "label": (lambda label: Dial(bool, label=label), "Dial: label must be a string"),
    "connect_error": (lambda address: connect_error(address, OSError("odd")), "an address such as"),
}


@pytest.mark.parametrize("value", WRONG, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_no_text_is_refused_with_a_sentence(taker, value):
    function, words = TAKERS[taker]
    with pytest.raises(TypeError, match=f"^{words}.*, not {type(value).__name__}"):
        function(value)


NOT_UTF8 = r"""
    import os, sys
    from stereos_proto_io import HybridVsock, UnixSocket, VirtioSerial, parse_address
    from stereos_proto_io.blocking import connect
    from stereos_proto_io.driver._device import Device
    from stereos_proto_io.testing import simulated_guest

    assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
    # As text of a program, and as the bytes of a command line.
    for text in ("unix://./d\u00e9", "unix://./" + os.fsdecode(b"d\xc3\xa9")):
        with simulated_guest(parse_address(text)) as guest, connect(guest.address) as client:
            client.ping()
            assert os.listdir(b".") == [b"d\xc3\xa9"]
        assert os.listdir(b".") == []
    master, slave = os.openpty()
    os.symlink(os.ttyname(slave), b"\xc3\xa9")
    port = VirtioSerial("\u00e9")
    assert (port.socket_file, port.fault()) == ("", "")
    Device(port.device).close()
    os.mkdir(b"\xc3\xb6")
    for address in (UnixSocket("\u00f6"), VirtioSerial("\u00f6"), HybridVsock("\u00f6")):
        assert "is a directory" in address.fault(), address
"""


def test_a_path_where_file_names_are_not_utf8(tmp_path):
    """The bytes of a path are the same everywhere."""
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NOT_UTF8)],
        env={**os.environ, **settings},
        cwd=tmp_path,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
