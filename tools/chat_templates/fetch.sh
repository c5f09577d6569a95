#!/bin/sh
# Fetches the chat templates that the package trl 1.16.0 ships into a folder: fetch.sh FOLDER
set -eu
folder=$1
mkdir -p "$folder"
wheel=$(mktemp -d)
trap 'rm -rf "$wheel"' EXIT
python3 -m pip download --quiet --no-deps --dest "$wheel" trl==1.16.0
python3 -m zipfile -e "$wheel"/trl-1.16.0-*.whl "$wheel/trl"
cp "$wheel"/trl/trl/chat_templates/*.jinja "$folder"
ls "$folder" | wc -l
