"""Wait until an agent runs: python wait_for_agent.py ADDRESS AGENT [SECONDS]"""

import sys

from stereos_proto import NotReady
from stereos_proto_io import parse_address
from stereos_proto_io.blocking import connect_when_ready


def main(address, agent, seconds="60"):
    # The state of a guest does not tell whether its agents run, so name the agent.
    try:
        with connect_when_ready(
            parse_address(address), agents=[agent], timeout=float(seconds)
        ) as guest:
            health = guest.get_health()
    except NotReady as exc:
        print(
            f"{exc} (last state: {exc.last_state}, tries: {exc.tries})", file=sys.stderr
        )
        return 1
    for status in health.agents:
        if status.name == agent:
            session = status.session or "(none)"
            print(f"{agent} runs in session {session}, restarts: {status.restarts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
