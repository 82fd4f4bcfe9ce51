"""Guests that really boot: their parts, their image, and the machine itself. Run by `make test-vm`."""
