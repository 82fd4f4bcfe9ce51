"""The health of guests for Prometheus: python prometheus_exporter.py PORT ADDRESS…"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from stereos_proto import Health, StereosError
from stereos_proto_io import parse_address
from stereos_proto_io.blocking import connect

#: Less than the time that Prometheus gives a scrape, which is 10 s.
SECONDS = 5.0

#: Kind, name, meaning, labels.
METRICS = (
    (GaugeMetricFamily, "guest_up", "Whether the guest answers.", "guest"),
    (GaugeMetricFamily, "guest_state", "1 for the state it is in.", "guest state"),
    (GaugeMetricFamily, "guest_uptime_seconds", "Uptime of its daemon.", "guest"),
    (GaugeMetricFamily, "agent_running", "Whether the agent runs.", "guest agent"),
    (CounterMetricFamily, "agent_restarts", "Restarts since boot.", "guest agent"),
)


def ask(address):
    """Return the health report of a guest, None if it gives none in time."""
    try:
        with connect(parse_address(address), timeout=SECONDS) as guest:
            return guest.get_health()
    except StereosError:
        return None


class GuestCollector:
    """Asks all guests at each scrape, at once."""

    def __init__(self, addresses):
        self.addresses = addresses
        self.pool = ThreadPoolExecutor(max(len(addresses), 1))

    def collect(self):
        up, state, uptime, running, restarts = metrics = [
            family(f"stereos_{name}", text, labels=labels.split())
            for family, name, text, labels in METRICS
        ]
        answers = self.pool.map(ask, self.addresses)
        for guest, health in zip(self.addresses, answers, strict=True):
            up.add_metric([guest], isinstance(health, Health))
            if health is None:
                continue
            state.add_metric([guest, health.state], 1)
            uptime.add_metric([guest], health.uptime_seconds)
            for agent in health.agents:
                running.add_metric([guest, agent.name], agent.running)
                restarts.add_metric([guest, agent.name], agent.restarts)
        return metrics


def main(port, *addresses):
    registry = CollectorRegistry()
    registry.register(GuestCollector(addresses))
    server, _thread = start_http_server(int(port), "127.0.0.1", registry)
    print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
