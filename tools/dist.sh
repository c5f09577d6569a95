#!/usr/bin/env bash
# Packs what a user without a toolchain needs: the stripped program, completions, manual pages, licences.
#   tools/dist.sh [FOLDER]      out unless another is named
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-out}
target=${CARGO_TARGET_DIR:-target}
version=$(cargo metadata --locked --no-deps --format-version 1 | sed 's/.*"name":"toktune-cli","version":"\([^"]*\)".*/\1/')
host=$(rustc --version --verbose | sed -n 's/^host: //p')
name=toktune-$version-$host

cargo build --release --locked --package toktune-cli
rm -rf "${out:?}/$name"
mkdir -p "$out/$name/completions" "$out/$name/man"
cp "$target/release/toktune" LICENSE README.md CHANGELOG.md "$out/$name/"
strip "$out/$name/toktune"
for shell in bash zsh fish powershell elvish; do
    "$out/$name/toktune" completions "$shell" >"$out/$name/completions/toktune.$shell"
done
"$out/$name/toktune" man --output "$out/$name/man"
tools/licences.sh >"$out/$name/LICENCES.tsv"
tar -C "$out" -czf "$out/$name.tar.gz" "$name"
echo "$out/$name.tar.gz: $(du -h "$out/$name.tar.gz" | cut -f1)"
