"""Random input for everything that reads what a guest, or a host, has written. See README.md."""
