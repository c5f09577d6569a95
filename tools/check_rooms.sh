#!/usr/bin/env bash
# The top-level modules of each crate know each other in one direction: none of them uses itself round about. What is looked at
# is code outside tests: `crate::module`, a name that `lib.rs` re-exports from a module, and `super::` at the top level.
# check_rooms.sh [FOLDER OF CRATES]
set -euo pipefail
cd "$(dirname "$0")/.."
crates=${1:-crates}

# Reads the files of a crate, each as FOLDER/src/..., and prints one line for each circle: the modules on the way.
circles() { # the folder of the crate
    find -L "$1/src" -name '*.rs' ! -name tests.rs ! -name testing.rs ! -path '*/tests/*' ! -path '*/testing/*' | sort |
        awk -v src="$1/src/" '
# What is code in a file, as one string: without comments and without the tests at its end.
function code(path,    line, text, marked) {
    text = ""; marked = 0
    while ((getline line < path) > 0) {
        if (marked && line ~ /^mod tests \{/) break
        marked = line ~ /^#\[cfg\(test\)\]/
        sub(/\/\/.*/, "", line)
        text = text " " line
    }
    close(path)
    return text
}
# Notes that `room` uses what is called `name` at the top level of the crate.
function uses(room, name) {
    if (!(name in rooms) && (name in of)) name = of[name]
    if (name in rooms && name != room) arrow[room, name] = 1
}
# Notes every name of a group `{a, b::{c}, d}` that begins `text`: the first part of each path.
function group(room, text,    at, depth, letter, first, word) {
    depth = 0; first = 1; word = ""
    for (at = 1; at <= length(text); at++) {
        letter = substr(text, at, 1)
        if (depth == 1 && first && letter ~ /[A-Za-z0-9_]/) { word = word letter; continue }
        if (word != "") { uses(room, word); word = ""; first = 0 }
        if (letter == "{") { depth++; first = depth == 1 }
        else if (letter == "}") { if (--depth == 0) return }
        else if (letter == "," && depth == 1) first = 1
    }
}
function paths(room, text, start,    rest) {
    while (match(text, start)) {
        rest = substr(text, RSTART + RLENGTH)
        text = rest
        if (rest ~ /^\{/) group(room, rest)
        else if (match(rest, /^[A-Za-z0-9_]+/)) uses(room, substr(rest, 1, RLENGTH))
    }
}
# Notes which module each name comes from that lib.rs re-exports.
function reexports(text,    room, names, count, i) {
    while (match(text, /pub(\([a-z]+\))? use (self::|crate::)?[a-z0-9_]+::[^;]*;/)) {
        names = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        sub(/^pub(\([a-z]+\))? use (self::|crate::)?/, "", names)
        room = names; sub(/::.*/, "", room)
        if (!(room in rooms)) continue
        count = split(names, words, /[^A-Za-z0-9_]+/)
        for (i = 2; i <= count; i++) if (words[i] != "") of[words[i]] = room
    }
}
# The way from one module to another by arrows, nearest first; "" when there is none.
function way(from, to,    queue, head, tail, before, room, next_, result) {
    queue[1] = from; head = 1; tail = 1; before[from] = ""
    while (head <= tail) {
        room = queue[head++]
        for (next_ in rooms) {
            if (!((room, next_) in arrow)) continue
            if (next_ == to) {
                result = to
                while (room != from) { result = room " -> " result; room = before[room] }
                return from " -> " result
            }
            if (!(next_ in before)) { before[next_] = room; queue[++tail] = next_ }
        }
    }
    return ""
}
{
    file[++files] = $0
    room = substr($0, length(src) + 1)
    top[files] = room !~ /\// || room ~ /^[^\/]+\/mod\.rs$/
    sub(/\/.*/, "", room); sub(/\.rs$/, "", room)
    room_of[files] = room
    if (room == "lib") library = $0
    else if (room != "main") rooms[room] = 1
}
END {
    if (library != "") reexports(code(library))
    for (i = 1; i <= files; i++) {
        if (!(room_of[i] in rooms)) continue
        text = code(file[i])
        paths(room_of[i], text, "crate::")
        if (top[i]) paths(room_of[i], text, "super::")
    }
    for (room in rooms) {
        circle = way(room, room)
        if (circle != "") print circle
    }
}' | sort
}

fail=0
for crate in "$crates"/*/; do
    crate=${crate%/}
    [ -d "$crate/src" ] || continue
    found=$(circles "$crate")
    if [ -n "$found" ]; then
        echo "error: modules of ${crate##*/} use each other in circles:" >&2
        echo "$found" | sed 's/^/    /' >&2
        fail=1
    fi
done
[ "$fail" = 0 ] && echo "the modules of each crate know each other in one direction"
exit "$fail"
