.PHONY: bench bench-full

BENCH := $(VENV)/.bench-$(STAMP)

$(BENCH): $(DEV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

bench: $(BENCH) ## measure beside other libraries, and print the figures as ratios (5 minutes)
	@$(BIN)/python -m bench $(ARGS)

bench-full: $(BENCH) ## the same with fleets of up to 5,000 guests
	@$(BIN)/python -m bench --full $(ARGS)
