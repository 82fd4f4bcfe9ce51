"""A client for gevent's green threads, unpatched: python loop_gevent.py ADDRESS"""

import sys

import gevent
import gevent.event
import gevent.socket

from stereos_proto_io import parse_address
from stereos_proto_io.driver import GreenClient


class Expired(Exception):
    """The time of a wait is up. A timeout of the user's is another exception."""


def waiting(wait):
    def wait_for(descriptor, seconds):
        try:
            wait(descriptor, timeout=seconds, timeout_exc=Expired)
        except Expired:
            return False
        return True

    return staticmethod(wait_for)


class Client(GreenClient):
    event = staticmethod(gevent.event.Event)
    spawn = staticmethod(gevent.spawn)
    kill = staticmethod(gevent.kill)
    readable = waiting(gevent.socket.wait_read)
    writable = waiting(gevent.socket.wait_write)

    @staticmethod
    def lookup(host, port):
        found = gevent.socket.getaddrinfo(host, port, type=gevent.socket.SOCK_STREAM)
        return [(family, target) for family, _, _, _, target in found]


def main(address):
    with Client.connect_when_ready(parse_address(address), timeout=60) as guest:
        jobs = [gevent.spawn(guest.ping), gevent.spawn(guest.get_health)]
        for job in gevent.joinall(jobs, raise_error=True):
            print(job.value)


if __name__ == "__main__":
    main(*sys.argv[1:])
