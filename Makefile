# `make check` is what CI runs, byte for byte.

.PHONY: check fmt lint doc graph test isa fixtures bench bench-kernels

check: fmt lint doc graph test isa

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

graph:
	tools/check_graph.sh

test:
	cargo test --workspace

# The same with each instruction set of the machine, forced.
isa:
	tools/test_each_isa.sh

# The reference results of the tests, from the real transformers and PEFT (see tools/fixtures/README.md).
fixtures:
	python3 tools/fixtures/make_fixtures.py
	python3 tools/fixtures/make_lora_fixtures.py

# Side by side with PEFT (see bench/README.md): make bench ARGS="--cache DIR --gsm8k FILE --python PEER"
bench:
	bench/run.sh $(ARGS)

# The kernels, as shares of the machine's peak.
bench-kernels:
	cargo bench --package toktune-kernels
