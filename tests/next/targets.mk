.PHONY: test-next

test-next: $(DEV) ## test on the Pythons to come, from Debian's testing suite, in a root of their own
	@PYTHONPATH=. $(BIN)/python -m tests.next.pythons $(ARGS)
