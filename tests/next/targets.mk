.PHONY: test-next test-freethreaded

test-next: $(DEV) ## test on the Pythons to come, from Debian's testing suite, in a root of their own
	@PYTHONPATH=. $(BIN)/python -m tests.next.pythons $(ARGS)

test-freethreaded: $(DEV) ## test on a Python 3.14 without a global lock, built from Debian's source package (15 minutes)
	@PYTHONPATH=. $(BIN)/python -m tests.next.freethreaded $(ARGS)
