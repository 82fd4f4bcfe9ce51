"""A Ctrl-C at a given place, and what the frames show that it has passed."""

import traceback


def interrupt(*_arguments, **_options):
    raise KeyboardInterrupt


def locals_of(error):
    """The local variables of the library's frames, as text."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return repr([frame.f_locals for frame in frames if "/src/stereos_proto" in frame.f_code.co_filename])
