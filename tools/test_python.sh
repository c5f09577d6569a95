#!/usr/bin/env bash
# Builds the wheel, installs it into an environment of its own, and runs its tests there.
#   tools/test_python.sh           with numpy and pytest alone: what a user has who has no torch
#   tools/test_python.sh peft      beside torch, transformers, PEFT, datasets, pandas and sentence-transformers (6 GB)
#   PYTHON=python3.12              the interpreter; 3.11 or later
#   PROFILE=release                how the engine is compiled; the profile of the tests unless this says otherwise
set -euo pipefail
cd "$(dirname "$0")/.."

beside=${1:-alone}
python=${PYTHON:-python3}
work=${CARGO_TARGET_DIR:-target}/python
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $python is $("$python" --version); the package needs Python 3.11 or later (PYTHON=...)" >&2
    exit 1
}

environment() { # folder, then packages
    local folder=$1
    shift
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
    "$folder/bin/pip" install --quiet --disable-pip-version-check "$@"
}

environment "$work/build" 'maturin>=1.9,<2'
rm -rf "$work/wheels"
"$work/build/bin/maturin" build --quiet --locked --profile "${PROFILE:-dev}" --out "$work/wheels"

rm -rf "$work/$beside"
packages=(pytest tqdm nbclient ipykernel matplotlib)
if [ "$beside" = peft ]; then
    packages+=(torch transformers peft datasets pandas ml_dtypes sentence-transformers)
fi
environment "$work/$beside" "$work"/wheels/*.whl "${packages[@]}"
# from another folder: what is installed is tested, and not what lies in the checkout
tests=$PWD/crates/toktune-py/tests
cd "$work"
"$beside/bin/python" -m pytest -q -p no:cacheprovider "$tests"
