"""A client in GLib's main loop, as GTK programs have it: python loop_glib.py ADDRESS"""

import sys

from gi.repository import GLib

from stereos_proto import GetHealth, StereosError
from stereos_proto_io import parse_address
from stereos_proto_io.driver import READ, WRITE, LoopClient

CONDITIONS = {READ: GLib.IOCondition.IN, WRITE: GLib.IOCondition.OUT}
ENDED = GLib.IOCondition.HUP | GLib.IOCondition.ERR


class GLibClient(LoopClient):
    def __init__(self, address):
        super().__init__(address)
        self.sources = {}
        self.timer = None

    def watch(self, stream, mask):
        source = self.sources.pop(stream, None)
        if source is not None:
            GLib.source_remove(source)
        if mask:
            condition = ENDED
            for bit, wanted in CONDITIONS.items():
                condition = condition | wanted if mask & bit else condition
            self.sources[stream] = GLib.unix_fd_add_full(
                GLib.PRIORITY_DEFAULT,
                stream.fileno(),
                condition,
                self.on_condition,
                stream,
            )

    def on_condition(self, _descriptor, condition, stream):
        mask = READ * bool(condition & (GLib.IOCondition.IN | ENDED)) | WRITE * bool(
            condition & GLib.IOCondition.OUT
        )
        self.on_ready(stream, mask)
        return GLib.SOURCE_CONTINUE

    def set_timer(self, seconds):
        if self.timer is not None:
            GLib.source_remove(self.timer)
        self.timer = (
            None
            if seconds is None
            else GLib.timeout_add(int(seconds * 1000) + 1, self.on_timeout)
        )

    def on_timeout(self):
        self.timer = None
        self.on_timer()
        return GLib.SOURCE_REMOVE

    def call_soon(self, function):
        GLib.idle_add(function)


def main(address):
    loop = GLib.MainLoop()
    client = GLibClient(parse_address(address))

    def on_ready(task):
        try:
            print("the guest is", task.result().state)
            client.request(GetHealth(), timeout=5, context=on_health)
        except StereosError as exc:
            end(exc)

    def on_health(call):
        end(call.outcome)

    def end(outcome):
        """Show the reply, or why there is none, and leave the loop."""
        print(outcome)
        client.close()
        GLib.idle_add(loop.quit, priority=GLib.PRIORITY_LOW)

    client.wait_ready(timeout=60, context=on_ready)
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
