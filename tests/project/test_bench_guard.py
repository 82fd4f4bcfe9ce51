"""The number of calls that fixed scenarios make stays within 5 % of the figures that are kept."""

import pytest
from bench import guard


@pytest.mark.parametrize("name", guard.SCENARIOS)
def test_calls_stay_near_the_figure(name):
    kept = guard.figures()
    # A Python that nobody has measured yet is held to the newest one that somebody has.
    version = guard.VERSION if guard.VERSION in kept else max(kept, key=lambda text: tuple(map(int, text.split("."))))
    tolerance = guard.TOLERANCE if version == guard.VERSION else 3 * guard.TOLERANCE
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
