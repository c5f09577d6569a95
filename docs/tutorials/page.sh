# For the scripts of the tutorials, which begin with `page=NAME.md; . page.sh`: the commands of a page are run, and what they wrote
# is put between the page's markers, `<!-- NAME -->` and `<!-- end of NAME -->`.
#   TOKTUNE=path/to/toktune   the program (default: target/release/toktune)
here=$(cd "$(dirname "$0")" && pwd)
page=$here/$page
toktune=$(realpath "${TOKTUNE:-$here/../../target/release/toktune}")

# work_in FOLDER: makes it and goes there.
work_in() {
    if [ -e "$1" ]; then
        echo "error: $1 is there already; remove it or give another folder" >&2
        exit 1
    fi
    mkdir -p "$1"
    cd "$1"
}

# show NAME COMMAND...: runs a command of the page, and puts it with its output between the page's markers of that name.
# SHORTEN='SED COMMANDS' is applied to the output.
show() {
    local name=$1 word line='$'
    shift
    for word in "$@"; do
        [ "$word" = "$toktune" ] && word=toktune
        case $word in *[!A-Za-z0-9_./:,=-]* | '') word="'$word'" ;; esac
        line+=" $word"
    done
    printf '%s\n' "$line" >"$name.txt"
    "$@" </dev/null 2>&1 | sed "${SHORTEN:-}" >>"$name.txt" || true
    put "$name"
}

# put NAME: the lines of NAME.txt between the markers of that name.
put() {
    python3 - "$page" "$1" <<'PYTHON'
import re, sys

page, name = sys.argv[1:]
text, output = open(page).read(), open(f"{name}.txt").read().rstrip("\n")
begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
block = f"{begin}```console\n{output}\n```\n{end}"
new, found = re.subn(re.escape(begin) + ".*?" + re.escape(end), lambda _: block, text, flags=re.S)
if not found:
    sys.exit(f"{page} has no markers of {name}")
open(page, "w").write(new)
PYTHON
    cat "$1.txt"
}
