#!/bin/bash -eu
# Builds one target for each harness into $OUT, with its seeds and a dictionary. OSS-Fuzz runs it in the container of
# the Dockerfile beside it; tests/project/test_oss_fuzz.py runs it without.
cd "$SRC/stereos-proto"
pip3 install .
targets=$(mktemp -d)
python3 fuzz/oss-fuzz/prepare.py "$targets" "$OUT"
# The harnesses are modules of the checkout, not of the wheel.
export PYTHONPATH="$SRC/stereos-proto${PYTHONPATH:+:$PYTHONPATH}"
for target in "$targets"/*_fuzzer.py; do
    compile_python_fuzzer "$target" --paths "$SRC/stereos-proto"
done
