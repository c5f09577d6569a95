#!/usr/bin/env bash
# No locked dependency asks for a newer Rust than the workspace says it needs.
set -euo pipefail
cd "$(dirname "$0")/.."

ours=$(awk -F'"' '/^rust-version = / { print $2; exit }' Cargo.toml)

# Every platform's dependencies where they are at hand or can be fetched, else those of this one.
if ! metadata=$(cargo metadata --locked --format-version 1 2>/dev/null); then
    host=$(rustc -vV | awk '/^host: / { print $2 }')
    echo "note: dependencies of other platforms than $host are not at hand and not looked at" >&2
    metadata=$(cargo metadata --locked --format-version 1 --filter-platform "$host")
fi

# A package begins with its name and its version; what it asks for stands behind them.
printf '%s\n' "$metadata" | awk -v ours="$ours" '
function number(version,    parts) {
    split(version, parts, ".")
    return parts[1] * 1000000 + parts[2] * 1000 + parts[3]
}
BEGIN { RS = "\\{\"name\":\"" }
match($0, /^[^"]+","version":"[^"]+","id":/) {
    split($0, head, "\"")
    package = head[1] " " head[5]
    packages++
}
match($0, /"rust_version":"[0-9.]+"/) {
    asked = substr($0, RSTART + 16, RLENGTH - 17)
    if (number(asked) > number(ours)) {
        print "error: " package " needs Rust " asked "; rust-version in Cargo.toml is " ours > "/dev/stderr"
        fail = 1
    }
    if (package !~ /^toktune/ && number(asked) > number(most)) most = asked
}
END {
    if (packages < 2 || most == "") { print "error: cargo metadata was not understood" > "/dev/stderr"; exit 1 }
    if (!fail) print "Rust " ours " is enough for " packages " packages (the most any asks for is " most ")"
    exit fail
}'
