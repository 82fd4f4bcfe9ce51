# make explore     all interleavings of the sizes that take minutes; `make test` explores the small ones

.PHONY: explore

explore: $(DEV) ## explore all interleavings of both sessions, and all schedules of threads that share one
	@PYTHONPATH=. $(BIN)/python -m tests.explore.turns large
	@PYTHONPATH=. $(BIN)/python -m tests.explore.guest_session large
	@PYTHONPATH=. $(BIN)/python -m tests.explore.host_session large
