#!/usr/bin/env bash
# The licence of each package that is linked into the command line and the Python package, one line a package: name, version, licence.
# A licence that is not on the list of those that are fine fails.
set -euo pipefail
cd "$(dirname "$0")/.."

fine='Apache-2\.0|MIT|BSD-[23]-Clause|ISC|Zlib|Unicode-3\.0|CDLA-Permissive-2\.0|0BSD|CC0-1\.0|Unlicense|BSL-1\.0|MPL-2\.0'
list() {
    cargo tree --locked --package toktune-cli --package toktune-py --edges normal --prefix none --format '{p}|{l}' |
        sed 's/ (\*)$//; s/ ([^)]*)|/|/' | sort -u
}
bad=$(list | awk -F'|' -v fine="^($fine)\$" '
{
    licence = $2; gsub(/ WITH LLVM-exception/, "", licence); gsub(/[()]/, "", licence)
    ok = 0
    # one of several is enough; several at once are looked at one by one
    n = split(licence, any, / OR | *\/ */)
    for (i = 1; i <= n; i++) {
        m = split(any[i], every, / AND /); all = m > 0
        for (j = 1; j <= m; j++) if (every[j] !~ fine) all = 0
        ok = ok || all
    }
    if (!ok) print $0
}')
if [ -n "$bad" ]; then
    printf 'error: not on the list of licences: %s\n' "$bad" >&2
    exit 1
fi
list | tr '|' '\t'
