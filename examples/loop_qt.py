"""A client in Qt's event loop: python loop_qt.py ADDRESS"""

import sys

from PySide6.QtCore import QCoreApplication, QSocketNotifier, QTimer

from stereos_proto import GetHealth, StereosError
from stereos_proto_io import parse_address
from stereos_proto_io.driver import READ, WRITE, LoopClient

KINDS = {READ: QSocketNotifier.Type.Read, WRITE: QSocketNotifier.Type.Write}


class QtClient(LoopClient):
    def __init__(self, address):
        super().__init__(address)
        self.notifiers = {}
        self.timer = QTimer(singleShot=True)
        self.timer.timeout.connect(self.on_timer)

    def watch(self, stream, mask):
        for bit, kind in KINDS.items():
            notifier = self.notifiers.pop((stream, bit), None)
            if notifier is not None:
                notifier.setEnabled(False)
                notifier.deleteLater()
            if mask & bit:
                notifier = self.notifiers[stream, bit] = QSocketNotifier(
                    stream.fileno(), kind
                )
                notifier.activated.connect(
                    lambda *_, bit=bit: self.on_ready(stream, bit)
                )

    def set_timer(self, seconds):
        self.timer.stop()
        if seconds is not None:
            self.timer.start(int(seconds * 1000) + 1)

    def call_soon(self, function):
        QTimer.singleShot(0, function)


def main(address):
    app = QCoreApplication([])
    client = QtClient(parse_address(address))

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
        QTimer.singleShot(0, app.quit)

    client.wait_ready(timeout=60, context=on_ready)
    app.exec()


if __name__ == "__main__":
    main(*sys.argv[1:])
