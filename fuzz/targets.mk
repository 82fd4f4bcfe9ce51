# make fuzz SECONDS=600                       each harness for ten minutes
# make campaign ARGS=codec                    ten million executions, in slices
# make soak MINUTES=60 DRIVER=trio SEED=7     an hour of random conversations
# make mutation ARGS=_framing                 one module only

SECONDS ?= 60
MINUTES ?= 2
SEED ?= 1
DRIVER ?= asyncio trio blocking

FUZZ := $(VENV)/.fuzz-$(STAMP)

RUNS ?= 10000000

.PHONY: fuzz campaign soak mutation planted oracle

# Its recipe is with the other everyday targets.
fuzz: $(FUZZ)
fuzz: override ARGS += --seconds $(SECONDS)

campaign: $(FUZZ) ## fuzz until each harness has made RUNS executions of the code as it is; may be stopped
	@$(BIN)/python -m fuzz.campaign --runs $(RUNS) $(ARGS)

soak: $(DEV) ## hold random conversations with faults against the simulator, and see that nothing leaks
	@set -e; for driver in $(DRIVER); do \
		$(BIN)/python -m fuzz.soak --driver $$driver --minutes $(MINUTES) --seed $(SEED) $(ARGS); done

mutation: $(DEV) ## change the code bit by bit, and see that a test fails each time
	@$(BIN)/python -m fuzz.mutation $(ARGS)

planted: $(FUZZ) ## put deliberate faults into the code, and see which tool finds them
	@$(BIN)/python -m fuzz.planted $(ARGS)

oracle: $(DEV) ## read 460,000 changed lines beside the oracle, in some minutes
	@STEREOS_ORACLE_LINES=460000 $(BIN)/python -m pytest -q -n auto tests/core/test_json_oracle.py -k mutated

$(FUZZ): $(DEV) fuzz/targets.mk
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	@touch $@
