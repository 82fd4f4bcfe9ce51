"""`python -m stereos_proto_io.cli`: the same as `stereosctl`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
