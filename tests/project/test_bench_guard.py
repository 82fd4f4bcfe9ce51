"""The number of calls that fixed scenarios make stays within 5 % of the figures that are kept, a ping's under 31."""

import pytest
from bench import guard


@pytest.mark.parametrize("name", [*guard.SCENARIOS, *guard.DRIVERS])
def test_calls_stay_near_the_figure(name):
    kept = {version: found for version, found in guard.figures().items() if name in found}
    # A Python that nobody has measured yet is held to the newest one that somebody has.
    version = guard.VERSION if guard.VERSION in kept else max(kept, key=lambda text: tuple(map(int, text.split("."))))
    tolerance = guard.TOLERANCE if version == guard.VERSION else 3 * guard.TOLERANCE
    if name in guard.DRIVERS:
        calls = guard.count_our_calls(guard.DRIVERS[name])
        assert calls <= guard.MOST_CALLS
    else:
        calls = guard.count_calls(guard.SCENARIOS[name])
    assert abs(calls - kept[version][name]) <= kept[version][name] * tolerance, (
        f"{calls} calls; the figure is {kept[version][name]}. If that is meant: python -m bench.guard --update"
    )


def test_the_guard_notices_one_call_more_per_message(monkeypatch):
    scenario = guard.SCENARIOS["200 pings"]
    before = guard.count_calls(scenario)
    from stereos_proto import _connection

    send = _connection.Connection.send

    def slower(self, message):
        for _ in range(3):
            len("")
        return send(self, message)

    monkeypatch.setattr(_connection.Connection, "send", slower)
    assert guard.count_calls(scenario) > before * (1 + guard.TOLERANCE)


def test_counting_is_repeatable():
    scenario = guard.SCENARIOS["200 requests read by a guest"]
    assert guard.count_calls(scenario) == guard.count_calls(scenario)


@pytest.mark.parametrize("verb", ["request", "request_many"])
def test_each_request_is_encoded_once(verb, monkeypatch):
    """Counted where all requests are written; also when they wait for room in flight."""
    from stereos_proto import HostSession, Ping, _host_session

    written = []
    write = _host_session.write

    def counting(message):
        written.append(message)
        return write(message)

    monkeypatch.setattr(_host_session, "write", counting)
    session = HostSession(max_pending=50)
    if verb == "request":
        for _ in range(300):
            session.request(Ping())
    else:
        session.request_many([Ping()] * 300)
    while data := session.data_to_send():
        session.data_sent(len(data))
        session.receive_data(b'{"type":"pong"}\n' * 50)
        assert len(list(session.events())) == 50
    assert len(written) == 300
