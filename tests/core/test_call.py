"""A request and its outcome: `Call`, and how a refusal becomes an exception. `test_host_session.py` settles calls."""

import traceback

import pytest
from hypothesis import given

from interrupts import traceback_sizes
from stereos_proto import (
    Ack,
    Call,
    ConnectionLost,
    InjectSecret,
    Kind,
    Mount,
    Ping,
    Pong,
    RequestFailed,
    StereosError,
    raise_for_refusal,
)
from stereos_proto.testing import strategies

SENTINEL = "s3ntinel-7261"
MOUNT = Mount("tag", "/mnt", "virtiofs")


def test_a_call_that_is_not_done_has_no_result():
    call = Call(Ping(), "mine", 5)
    assert (call.context, call.deadline, call.done, call.sent) == ("mine", 5, False, False)
    with pytest.raises(RuntimeError, match=r"^ping is not done yet$"):
        call.result()


@given(strategies.messages(kind=Kind.REPLY))
def test_the_result_is_the_reply_or_it_raises(reply):
    call = Call(MOUNT, outcome=reply)
    if isinstance(reply, Ack) and not reply.ok:
        with pytest.raises(RequestFailed):
            call.result()
        with pytest.raises(RequestFailed):
            raise_for_refusal(MOUNT, reply)
    else:
        assert call.result() is reply
        raise_for_refusal(MOUNT, reply)


def test_an_error_is_raised_as_it_is():
    error = ConnectionLost("it went")
    with pytest.raises(StereosError) as caught:
        Call(Ping(), outcome=error).result()
    assert caught.value is error


def test_the_traceback_does_not_grow_from_call_to_call():
    call = Call(Ping(), outcome=ConnectionLost("it went"))
    assert len(traceback_sizes(ConnectionLost, call.result)) == 1


def test_a_refusal_tells_the_guest_where_it_is_known():
    refusal = Ack("mount", False, "no such tag")
    with pytest.raises(RequestFailed, match=r"^the guest refused mount: no such tag$") as caught:
        raise_for_refusal(MOUNT, refusal)
    assert caught.value.guest is None
    with pytest.raises(RequestFailed, match=r"^the guest refused mount: no such tag\nguest: web-5$") as caught:
        Call(MOUNT, label="web-5", outcome=refusal).result()
    assert caught.value.guest == "web-5"
    with pytest.raises(RequestFailed) as caught:
        raise_for_refusal(MOUNT, refusal, guest="web-6")
    assert caught.value.guest == "web-6"


def test_calls_are_compared_by_identity():
    """They are keys: two equal requests are two calls."""
    assert len({Call(Ping()), Call(Ping())}) == 2


def test_no_secret_in_repr_nor_in_what_a_refusal_raises():
    call = Call(
        InjectSecret("a", SENTINEL),
        outcome=Ack("inject_secret", False, f"cannot store {SENTINEL}"),
        line=SENTINEL.encode(),
    )
    assert SENTINEL not in repr(call)
    assert "outcome=<Ack>" in repr(call)
    shown = "Call(request=Ping(), context=None, deadline=None, outcome=None, done=False, sent=False)"
    assert repr(Call(Ping())) == shown
    with pytest.raises(RequestFailed) as caught:
        call.result()
    whole = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    # The locals of this function hold the request itself; those of the library hold nothing.
    frames = [frame for frame in whole.stack if "stereos_proto" in frame.filename]
    assert frames
    assert SENTINEL not in "".join(str(frame.locals) for frame in frames) + str(caught.value) + repr(caught.value)


def test_a_pong_answers_a_ping():
    assert Call(Ping(), outcome=Pong()).result() == Pong()
