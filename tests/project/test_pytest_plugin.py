"""The fixture `stereos_guest`, as a new user's tests have it."""

import math
import subprocess
import sys
from contextlib import suppress
from typing import get_type_hints

import pytest

from stereos_proto import ConnectError, ConnectionLost, Lifecycle, StereosError
from stereos_proto_io import TCP, UnixSocket
from stereos_proto_io.blocking import connect, connect_when_ready
from stereos_proto_io.guest import OLD_TYPES, Effects, GuestSimulator, faults
from stereos_proto_io.testing import GuestOptions, simulated_guest

pytest_plugins = ["pytester"]

PATIENCE = 20


def run(pytester, source, **options):
    pytester.makepyfile(source)
    return pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider", **options)


def test_five_lines(pytester):
    """What the README shows."""
    result = run(
        pytester,
        """
        from stereos_proto_io.blocking import connect

        def test_secret(stereos_guest):
            with connect(stereos_guest.address) as client:
                client.inject_secret("API_KEY", "s3cret")
            assert stereos_guest.simulator.secrets["API_KEY"].mode == 0o600
        """,
    )
    result.assert_outcomes(passed=1)


def test_asyncio(pytester):
    result = run(
        pytester,
        """
        import asyncio
        from stereos_proto_io.asyncio import connect

        def test_secret(stereos_guest):
            async def main():
                async with connect(stereos_guest.address) as client:
                    await client.inject_secret("API_KEY", "s3cret")
            asyncio.run(main())
            assert stereos_guest.simulator.secrets["API_KEY"].value == "s3cret"
        """,
    )
    result.assert_outcomes(passed=1)


def test_trio(pytester):
    result = run(
        pytester,
        """
        import trio
        from stereos_proto_io.trio import connect

        def test_secret(stereos_guest):
            async def main():
                async with connect(stereos_guest.address) as client:
                    await client.inject_secret("API_KEY", "s3cret")
            trio.run(main)
            assert stereos_guest.simulator.secrets["API_KEY"].value == "s3cret"
        """,
    )
    result.assert_outcomes(passed=1)


def test_the_marker_says_what_the_guest_is_like(pytester):
    result = run(
        pytester,
        """
        import pytest, socket
        from stereos_proto_io import UnixSocket

        def ask(address, line):
            with socket.socket(socket.AF_UNIX) as host:
                host.connect(address.path)
                host.sendall(line)
                host.shutdown(socket.SHUT_WR)
                return host.recv(1000)

        @pytest.mark.stereos_guest(UnixSocket("g"), faults=["fail:no@ping"], users=["me"])
        def test_it(stereos_guest):
            assert b'"error":"no"' in ask(stereos_guest.address, b'{"type":"ping"}')
            assert stereos_guest.simulator.requests
        """,
    )
    result.assert_outcomes(passed=1)


def test_markers_of_module_class_and_test_add_up(pytester):
    """The nearest one's options count, and faults come one after the other."""
    result = run(
        pytester,
        """
        import pytest
        from stereos_proto import Lifecycle
        from stereos_proto_io import UnixSocket
        from stereos_proto_io.blocking import connect

        pytestmark = pytest.mark.stereos_guest(faults=["push:ready@ping"], boot_time=5, users=["them"])

        @pytest.mark.stereos_guest(UnixSocket("class"), faults=["push:degraded@ping"], boot_time=0, users=["me"])
        class TestIt:
            @pytest.mark.stereos_guest(faults=["push:shutdown@ping"], users=["you"])
            def test_method(self, stereos_guest):
                assert str(stereos_guest.address) == "unix://class"
                with connect(stereos_guest.address) as client:
                    assert client.get_health().state != "booting"
                    client.inject_ssh_key("you", "ssh-ed25519 AAAA")
                    client.ping()
                    news = client.notifications()
                    assert {next(news).state for _ in range(3)} == {"ready", "degraded", "shutdown"}

            @pytest.mark.stereos_guest(address=UnixSocket("method"))
            def test_address_by_name(self, stereos_guest):
                assert str(stereos_guest.address) == "unix://method"

            def test_class_alone(self, stereos_guest):
                with connect(stereos_guest.address) as client:
                    client.inject_ssh_key("me", "ssh-ed25519 AAAA")
                    client.ping()
                    news = client.notifications()
                    assert {next(news).state for _ in range(2)} == {"ready", "degraded"}

        @pytest.mark.stereos_guest(address=UnixSocket("far"))
        class TestAddress:
            @pytest.mark.stereos_guest(UnixSocket("near"))
            def test_nearer(self, stereos_guest):
                assert str(stereos_guest.address) == "unix://near"

        def test_module_alone(stereos_guest):
            with connect(stereos_guest.address) as client:
                assert client.get_health().state == "booting"
        """,
    )
    result.assert_outcomes(passed=5)


def test_a_strict_marker_fails_a_test_whose_fault_never_happened(pytester):
    result = run(
        pytester,
        """
        import pytest
        from stereos_proto_io.blocking import connect

        pytestmark = pytest.mark.stereos_guest(faults=["late:0s@ping#1", "drop@mount#2"], strict=True)

        @pytest.fixture
        def client(stereos_guest):
            with connect(stereos_guest.address) as client:
                yield client

        def test_half(client):
            client.ping()

        def test_own_failure(client):
            raise AssertionError("of its own")

        def test_all(client, stereos_guest):
            client.ping()
            client.mount("share0", "/a", "9p")
            with pytest.raises(TimeoutError):
                client.mount("share1", "/b", "9p", timeout=0.01)

        @pytest.mark.stereos_guest(strict=False)
        def test_lenient(client):
            client.ping()
        """,
    )
    result.assert_outcomes(passed=2, failed=2)
    never = (
        "these faults never happened, because their request or connection did not come, or because they changed "
        "nothing there: drop@mount#2"
    )
    result.stdout.fnmatch_lines([never, "*of its own"])
    # Not counted in the whole output: in CI the summary has it once more.
    assert result.stdout.lines.count(never) == 1


def test_faults_without_their_name_are_told_how_to_be_written(pytester):
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.stereos_guest(["drop@mount#2"])
        def test_it(stereos_guest):
            pass
        """,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TypeError: the first argument is the address*faults=*drop@mount#2*"])


@pytest.mark.parametrize("faults", ["'drop@mount'", "('drop@mount#2')"])
def test_one_text_for_several_faults_is_refused_as_the_simulator_does(pytester, faults):
    """A comma is easily forgotten. Without a check, each letter would be a fault."""
    result = run(
        pytester,
        f"""
        import pytest

        pytestmark = pytest.mark.stereos_guest(faults=["late:0s@ping"])

        @pytest.mark.stereos_guest(faults={faults})
        def test_it(stereos_guest):
            pass
        """,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TypeError: faults takes several strings, such as a tuple of them, not one string"])


def test_a_marker_of_a_test_without_the_fixture_is_an_error(pytester):
    """The test would pass without a guest, and test nothing of what its marker says."""
    result = run(
        pytester,
        """
        import pytest

        @pytest.mark.stereos_guest(faults=["drop@mount#2"], strict=True)
        def test_forgotten():
            raise AssertionError("not run")

        class TestIt:
            @pytest.mark.stereos_guest()
            def test_method(self, tmp_path):
                raise AssertionError("not run")

        @pytest.mark.parametrize("name", [pytest.param("a", marks=pytest.mark.stereos_guest()), "b"])
        def test_parameters(name):
            assert name == "b"
        """,
    )
    result.assert_outcomes(errors=3, passed=1)
    wanted = (
        "*is marked stereos_guest, and does not use the fixture of that name: give it the argument `stereos_guest`*"
    )
    result.stdout.fnmatch_lines([wanted] * 3)


def test_a_marker_may_stand_where_the_fixture_is_used_by_other_ways(pytester):
    """Those of a module or a class also cover tests without a guest."""
    result = run(
        pytester,
        """
        import pytest

        pytestmark = pytest.mark.stereos_guest(faults=["drop@mount#2"], strict=True)

        @pytest.fixture
        def guest(stereos_guest):
            return stereos_guest

        @pytest.fixture
        def by_name(request):
            return request.getfixturevalue("stereos_guest")

        @pytest.mark.stereos_guest(faults=["late:0s@ping"], boot_time=5)
        class TestIt:
            def test_without_guest(self):
                pass

            @pytest.mark.stereos_guest(strict=False)
            def test_fixture_of_ones_own(self, guest):
                assert guest.simulator.state == "booting"

        @pytest.mark.stereos_guest(strict=False)
        def test_by_name(by_name):
            assert by_name.address

        @pytest.mark.usefixtures("stereos_guest")
        @pytest.mark.stereos_guest(strict=False)
        def test_in_the_body(request):
            assert request.getfixturevalue("stereos_guest").address
        """,
    )
    result.assert_outcomes(passed=4)


def test_the_marker_is_announced(pytestconfig):
    assert any(line.startswith("stereos_guest(**options): ") for line in pytestconfig.getini("markers"))


def test_failing_tests_do_not_show_secrets(pytester):
    result = run(
        pytester,
        """
        from stereos_proto import InjectSecret, SetConfig

        def test_it(stereos_guest):
            simulator = stereos_guest.simulator
            for request in (InjectSecret("a", "very" + "-secret"), SetConfig("also" + "-secret")):
                simulator.handle(request)
            assert simulator.requests == simulator.secrets
        """,
    )
    result.assert_outcomes(failed=1)
    shown = result.stdout.str()
    assert "very-secret" not in shown
    assert "also-secret" not in shown


def test_importing_the_plugin_is_light():
    """pytest imports it in every project that has us installed."""
    code = (
        "import pytest, sys; before = {*sys.modules}; "
        "import stereos_proto_io.pytest_plugin; print(*{*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"trio", "asyncio", "hypothesis", "stereos_proto_io.guest", "stereos_proto_io.testing", "selectors"}
    assert not heavy & {*done.stdout.split()}


# ------------------------------------------------------------------------------------- simulated_guest


def test_simulated_guest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with simulated_guest() as guest:
        assert guest.address == TCP("127.0.0.1", guest.address.port)
        assert guest.address.port
        assert guest.simulator.requests == ()
        assert guest.push(Lifecycle("ready")) == 0
    with simulated_guest(UnixSocket("g"), types=OLD_TYPES) as guest:
        assert guest.address == UnixSocket("g")


def test_options_are_the_simulators():
    wanted = get_type_hints(GuestSimulator.__init__)
    assert {**get_type_hints(GuestOptions), "return": type(None)} == wanted
    with pytest.raises(TypeError, match="unexpected keyword"), simulated_guest(colour="red"):
        raise AssertionError


@pytest.mark.parametrize("first", [["drop@mount#2"], ("drop@mount#2",), "drop@mount#2", [faults.Drop()], faults.Drop()])
def test_faults_need_their_name(first):
    with pytest.raises(TypeError, match=r"faults have a name: faults="), simulated_guest(first):
        raise AssertionError


def test_a_guest_that_has_been_up_for_an_hour():
    with simulated_guest(uptime=3600) as guest, connect(guest.address) as client:
        health = client.get_health()
        assert 3600 <= health.uptime_seconds < 3700
        assert health.state == "ready"
        guest.reboot()
        with connect(guest.address) as again:
            assert again.get_health().uptime_seconds < 3600


# ---------------------------------------------------------------------------- a reboot, a power-off


def test_a_simulated_guest_reboots():
    with simulated_guest() as guest, connect(guest.address) as client:
        client.inject_secret("API_KEY", "s3cret")
        guest.reboot()
        with pytest.raises(ConnectionLost):
            client.ping()
        with connect(guest.address) as again:
            assert again.get_health().state == "ready"
        assert guest.simulator.secrets == {}


def test_a_simulated_guest_is_down_for_a_while():
    with simulated_guest() as guest:
        guest.reboot(3600)
        with pytest.raises(ConnectError), connect(guest.address):
            raise AssertionError


def test_a_simulated_guest_powers_off():
    with simulated_guest() as guest, connect(guest.address) as client:
        client.mount("share0", "/workspace", "9p")
        guest.power_off()
        with pytest.raises(ConnectionLost):
            client.ping()
        with pytest.raises(ConnectError), connect(guest.address):
            raise AssertionError
        assert len(guest.simulator.mounts) == 1
        with pytest.raises(RuntimeError, match="the guest is off"):
            guest.reboot()


def test_an_effect_may_reboot_the_guest():
    class Rebooting(Effects):
        def mount(self, mount):
            guest.reboot()

    with simulated_guest(effects=Rebooting()) as guest:
        with connect(guest.address) as client:
            client.ping()
            with suppress(StereosError):  # whether the reply leaves before the end is a race
                client.mount("share0", "/workspace", "9p", timeout=PATIENCE)
            with suppress(StereosError):  # the reboot ends this connection, and no host is accepted before it is over
                while client.ping(timeout=PATIENCE):
                    pass
        with connect_when_ready(guest.address, timeout=PATIENCE) as client:
            assert guest.simulator.mounts == ()


def test_a_simulated_guest_is_shown_by_its_address_and_state():
    with simulated_guest(boot_time=math.inf) as guest:
        assert repr(guest) == f"<SimulatedGuest {guest.address} booting>"
        guest.power_off()
        assert repr(guest) == f"<SimulatedGuest {guest.address} off>"
