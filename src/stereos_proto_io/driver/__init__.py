"""What a client of any event loop is made of."""
