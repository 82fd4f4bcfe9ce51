.PHONY: docs

docs: $(DEV) ## build the documentation into docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -d docs/_build/doctrees docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"
