# `make check` is what CI runs, byte for byte.

.PHONY: check fmt lint doc graph rooms rust-version test isa mpi python python-peft man dist licences publish-check fixtures bench bench-kernels fuzz

check: fmt lint doc graph rooms rust-version licences test isa python

fmt:
	cargo fmt --all --check

lint:
	cargo clippy --locked --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps

graph:
	tools/check_graph.sh

rooms:
	tools/check_rooms.sh

rust-version:
	tools/check_rust_version.sh

# Packs every crate, builds it from its package and uploads nothing. It needs the network, for the index.
publish-check:
	cargo publish --workspace --dry-run --locked

test:
	cargo test --workspace

# The same with each instruction set of the machine, forced.
isa:
	tools/test_each_isa.sh

# Runs of several processes under mpirun. It needs an MPI library, and libclang to build against it.
mpi:
	cargo clippy --locked --workspace --features toktune-cli/mpi --all-targets -- -D warnings
	cargo test --workspace --features toktune-cli/mpi --test mpi

# The Python package: its wheel in an environment of its own, without torch.
python:
	tools/test_python.sh

# The same beside torch, transformers and PEFT, which are fetched (6 GB).
python-peft:
	tools/test_python.sh peft

# The manual's pages, in out/man.
man:
	cargo run --quiet --locked --package toktune-cli -- man --output out/man

# A stripped binary with completions, pages and licences, as a tarball in out.
dist:
	tools/dist.sh

# The licences of everything that is linked, one line a package.
licences:
	tools/licences.sh

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

# The readers of files from outside, each fed with damaged ones for FUZZ_SECONDS. Nothing is installed but cargo-fuzz, and the
# stable toolchain does: without a sanitizer no unstable flag is needed but for what RUSTC_BOOTSTRAP allows. What is found
# on the way stays in fuzz/new; what makes a target fail is in fuzz/artifacts.
FUZZ_SECONDS = 60
FUZZ_TARGETS = safetensors gguf torch adapter tokenizer template rows

fuzz:
	command -v cargo-fuzz > /dev/null || cargo install cargo-fuzz --locked
	for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/new/$$target; \
		RUSTC_BOOTSTRAP=1 cargo fuzz run --dev --sanitizer none $$target fuzz/new/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096 -timeout=20 || exit 1; \
	done
