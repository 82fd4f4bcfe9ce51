.PHONY: test-vm demo-vm

test-vm: $(DEV) ## test with guests that really boot (QEMU, on Debian; 4 minutes)
	@PYTHONPATH=tests $(BIN)/python -m vm.run $(ARGS)

demo-vm: $(DEV) ## boot a real guest, provision it, look into it, shut it down
	@PYTHONPATH=tests $(BIN)/python -m vm.demo
