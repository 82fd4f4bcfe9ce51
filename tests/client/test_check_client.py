"""`check_client` catches clients that get it wrong, and says which case they fail."""

import asyncio
import re

import pytest

from stereos_proto import Ack, ConnectionLost, OutcomeUnknown, RequestFailed, RequestTimeout, StereosError
from stereos_proto_io import TCP, UnixSocket, blocking
from stereos_proto_io import asyncio as asyncio_driver
from stereos_proto_io.testing import check_client, client_cases


class Client:
    """A client that gets everything right, until a subclass gets something wrong."""

    def __init__(self, address):
        self.client = blocking.connect(address)

    def __getattr__(self, name):
        return getattr(self.client, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.client.close()


class TakesRefusals(Client):
    def inject_secret(self, name, value):
        try:
            return self.client.inject_secret(name, value)
        except RequestFailed as exc:
            return Ack("inject_secret", False, exc.error)


class TellsSecrets(Client):
    def inject_secret(self, name, value):
        try:
            return self.client.inject_secret(name, value)
        except RequestFailed as exc:
            # The error itself would blot it out.
            exc.args = (f"must be a simple filename: {name}={value}",)
            raise


class MixesReplies(Client):
    def request_many(self, messages):
        return self.client.request_many(messages)[::-1]


class LimitsPipelines(Client):
    def request_many(self, messages):
        return self.client.request_many(list(messages)[:100])


class SendsOneByOne(Client):
    """It sends what comes before a message that cannot be sent."""

    def request_many(self, messages):
        return [reply for message in messages for reply in self.client.request_many([message])]


class LosesNews(Client):
    def notifications(self):
        return iter(())


class TakesEndsForClosing(Client):
    def notifications(self):
        try:
            yield from self.client.notifications()
        except ConnectionLost:
            return


class KnowsTheOutcome(Client):
    """What is lost was not carried out, it says."""

    def mount(self, *arguments):
        try:
            return self.client.mount(*arguments)
        except OutcomeUnknown as exc:
            raise ConnectionLost(str(exc), unanswered=exc.unanswered) from None


class SendsAgain(Client):
    def __init__(self, address):
        super().__init__(address)
        self.address = address

    def mount(self, *arguments):
        try:
            return self.client.mount(*arguments)
        except OutcomeUnknown:
            self.client = blocking.connect(self.address)
            return self.client.mount(*arguments)


class NeedsTheLastAck(Client):
    def shutdown(self, reason=""):
        ack = self.client.shutdown(reason)
        if ack is None:
            raise ConnectionLost("there was no ack")
        return ack


class KeepsNoPlace(Client):
    """After a deadline it takes the next reply that comes for its own, as the reference does (§7, fault 2)."""

    late = None

    def request(self, message, timeout=None):
        if self.late:
            self.late, message = message, self.late
            return self.client.request(message)
        try:
            return self.client.request(message, timeout=timeout)
        except RequestTimeout:
            self.late = message
            raise


class HasNoDeadline(Client):
    def request(self, message, timeout=None):
        return self.client.request(message)


class ReportsBackwards(Client):
    def provision(self, plan, on_step):
        report = self.client.provision(plan)
        for step in reversed(report.steps):
            on_step(step)
        return report


class HidesTheCause(Client):
    def request(self, message, **options):
        try:
            return self.client.request(message, **options)
        except StereosError as exc:
            raise ConnectionLost("something went wrong") from exc


class TakesClosingForAnEnd(Client):
    def notifications(self):
        yield from self.client.notifications()
        raise ConnectionLost("the connection was closed")


#: Wrong clients, and a case that each of them fails.
WRONG = {
    TakesRefusals: "refusal",
    TellsSecrets: "refusal",
    MixesReplies: "pipeline_beyond_the_bound",
    LimitsPipelines: "pipeline_beyond_the_bound",
    SendsOneByOne: "what_cannot_be_sent",
    LosesNews: "notifications_do_not_shift_replies",
    TakesEndsForClosing: "notifications_end_with_the_guest",
    KnowsTheOutcome: "guest_goes_while_a_change_is_open",
    SendsAgain: "guest_goes_while_a_change_is_open",
    NeedsTheLastAck: "shutdown_whose_ack_is_lost",
    KeepsNoPlace: "late_reply_is_swallowed",
    HasNoDeadline: "late_reply_is_swallowed",
    ReportsBackwards: "provisioning",
    HidesTheCause: "garbage",
    TakesClosingForAnEnd: "own_end",
}


def case(name):
    [found] = [case for case in client_cases() if case.name == name]
    return found


@pytest.mark.parametrize("wrong", WRONG, ids=lambda client: client.__name__)
def test_a_client_that_gets_it_wrong_is_told_the_case(wrong):
    name = WRONG[wrong]
    check_client(Client, cases=[case(name)])
    with pytest.raises(AssertionError, match=f"^{name}: "):
        check_client(wrong, cases=[case(name)])


def test_what_is_expected_and_what_was_found_is_told():
    found = re.escape("expected <class 'stereos_proto._errors.OutcomeUnknown'>, found <class")
    with pytest.raises(AssertionError, match=found):
        check_client(KnowsTheOutcome, cases=[case("guest_goes_while_a_change_is_open")])


def test_cases_have_names_of_their_own():
    names = [case.name for case in client_cases()]
    assert len(set(names)) == len(names) > 15
    without_ends = client_cases(ends=False)
    assert len(without_ends) < len(names)
    assert not any(case.ends for case in without_ends)


def test_an_asynchronous_client_needs_a_way_to_run(tmp_path):
    [first, *_] = client_cases()
    with pytest.raises(AssertionError, match="an asynchronous client needs `run`"):
        check_client(asynchronous, cases=[first])
    # An awaitable will do, and so will the context manager that it is.
    for make in (asyncio_driver.connect, awaited):
        check_client(make, run=lambda main: asyncio.run(main()), cases=[first], address=UnixSocket(tmp_path / "g"))


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


def test_the_guest_is_where_it_was_asked_to_be(tmp_path):
    seen = []

    def make(address):
        seen.append(address)
        return Client(address)

    for address in (None, UnixSocket(tmp_path / "guest")):
        check_client(make, cases=client_cases()[:1], address=address)
    assert isinstance(seen[0], TCP)
    assert seen[0].port
    assert seen[1] == UnixSocket(tmp_path / "guest")
