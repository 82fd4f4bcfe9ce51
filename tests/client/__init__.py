"""The clients, over real sockets."""
