"""A few seconds of what `make soak` does for hours."""

import random

import pytest
from fuzz import soak

from stereos_proto import Ack, CustomRequest, Ping, Pong, RequestFailed


@pytest.mark.parametrize("driver", ["asyncio", "trio", "blocking"])
def test_random_conversations_with_random_faults(driver, capsys):
    following = soak.soak(driver, seed=20, start=0, until=lambda number: number >= 4 * soak.ROUND)
    assert following == 4 * soak.ROUND
    assert "conversations 0 to 99" in capsys.readouterr().out


def test_a_conversation_is_the_same_each_time():
    """But for the address, which is made by a function."""
    for number in range(50):
        one, two = (soak.conversation(7, number) for _ in range(2))
        assert one._replace(address=None) == two._replace(address=None)
    assert len({str(soak.conversation(7, number).workers) for number in range(50)}) == 50


@pytest.mark.parametrize("grown", [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1000, 0), (0, 0, 0, 20_000)])
def test_what_stays_behind_is_seen(grown):
    first = soak.InUse(5, 1, 1000, 50_000)
    soak.check_flat(first, first, 100)
    last = soak.InUse(*(before + more for before, more in zip(first, grown, strict=True)))
    with pytest.raises(AssertionError):
        soak.check_flat(first, last, 100)


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        (Ping(), Ack("ping", True)),
        (CustomRequest("sync:1"), Ack("sync:2", True)),
        (CustomRequest("sync:1"), Pong()),
        (Ping(), RuntimeError("of somebody's")),
        (CustomRequest("sync:1"), RequestFailed(CustomRequest("sync:1"), "unknown message type: sync:2")),
    ],
)
def test_a_reply_that_went_astray_is_seen(asked, outcome):
    with pytest.raises(AssertionError):
        soak.judge(asked, outcome, soak.Counter())


def test_every_kind_of_request_is_asked():
    rng = random.Random(1)
    assert len({type(soak.request(rng)) for _ in range(300)}) == 8
