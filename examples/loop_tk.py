"""A client in Tk's main loop: python loop_tk.py ADDRESS"""

import sys
import tkinter

from stereos_proto import GetHealth, StereosError
from stereos_proto_io import parse_address
from stereos_proto_io.driver import READ, WRITE, LoopClient


class TkClient(LoopClient):
    def __init__(self, root, address):
        super().__init__(address)
        self.root = root
        self.timer = None

    def watch(self, stream, mask):
        if not mask:
            self.root.tk.deletefilehandler(stream)
            return
        flags = tkinter.READABLE * bool(mask & READ) | tkinter.WRITABLE * bool(
            mask & WRITE
        )
        self.root.tk.createfilehandler(stream, flags, self.on_file)

    def on_file(self, stream, flags):
        self.on_ready(
            stream,
            READ * bool(flags & tkinter.READABLE)
            | WRITE * bool(flags & tkinter.WRITABLE),
        )

    def set_timer(self, seconds):
        if self.timer is not None:
            self.root.after_cancel(self.timer)
        self.timer = (
            None
            if seconds is None
            else self.root.after(int(seconds * 1000) + 1, self.on_timer)
        )

    def call_soon(self, function):
        self.root.after(0, function)


def main(address):
    root = tkinter.Tk()
    label = tkinter.Label(root, text="waiting for the guest", padx=40, pady=20)
    label.pack()
    client = TkClient(root, parse_address(address))

    def on_ready(task):
        try:
            label["text"] = f"the guest is {task.result().state}"
            client.request(GetHealth(), timeout=5, context=on_health)
        except StereosError as exc:
            end(exc)

    def on_health(call):
        end(call.outcome)

    def end(outcome):
        """Show the reply, or why there is none, and leave the loop."""
        print(outcome)
        client.close()
        root.after(100, root.destroy)

    client.wait_ready(timeout=60, context=on_ready)
    root.mainloop()


if __name__ == "__main__":
    main(*sys.argv[1:])
