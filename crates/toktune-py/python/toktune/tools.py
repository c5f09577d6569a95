"""What the command line does, for programs: each function is one of its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any, Union

from . import _toktune
from .errors import Error

__all__ = ["combine", "distill", "preview", "run_command"]

Path = Union[str, "os.PathLike[str]"]


def run_command(*arguments: Any, on_event: Callable[[dict[str, Any]], None] | None = None) -> list[dict[str, Any]]:
    """Runs a command of the command line in a process of its own, with `--log-format json`: the events that it tells.

    Raises:
        Error: it failed; the message is its own.
        KeyboardInterrupt: Ctrl-C, which the command is given too: what it has is saved.
    """
    command = [sys.executable, "-m", "toktune", *map(str, arguments), "--log-format", "json"]
    events = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        out, err = process.stdout, process.stderr
        if out is None or err is None:
            raise Error("the command's output cannot be read")
        try:
            for line in out:
                if not line.startswith("{"):
                    continue
                event = json.loads(line)
                events.append(event)
                if on_event is not None:
                    on_event(event)
            said = err.read()
        except KeyboardInterrupt:
            process.wait()
            raise
    if process.returncode:
        faults = [line for line in said.splitlines() if line.startswith("error")]
        raise Error("\n".join(faults or said.splitlines()[-1:] or [f"exit status {process.returncode}"]).removeprefix("error: "))
    return events


def flags(of: dict[str, Any]) -> list[str]:
    """Keywords as flags."""
    found: list[str] = []
    for name, value in of.items():
        flag = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            found.append(flag)
        elif isinstance(value, (list, tuple)):
            for one in value:
                found += [flag, str(one)]
        else:
            found += [flag, str(value)]
    return found


def distill(
    model: Path,
    words: Path | Iterable[str],
    output: Path,
    *,
    corpus: None | Path | Iterable[Path] = None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Makes words single tokens that are read as their pieces were (`toktune distill`); what was measured on held-out snippets.

    Args:
        model: a folder, a GGUF file, or an id of the Hub.
        words: a list of words, or a file of them.
        output: a folder for the adapter.
        corpus: files or folders with texts in which the words are; without it the model writes them (`generate=N`).
        kwargs: further flags of the command, by name: `max_steps=64`, `loss="kl"`.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        if not isinstance(words, (str, os.PathLike)):
            path = os.path.join(folder, "words.txt")
            with open(path, "w", encoding="utf-8") as out:
                out.writelines(f"{word}\n" for word in words)
            words = path
        texts = [corpus] if isinstance(corpus, (str, os.PathLike)) else list(corpus or [])
        given = flags({"model": model, "words": words, "output": output, "corpus": texts, **kwargs})
        return run_command("distill", *given, on_event=on_event)[-1]


def preview(model: Path, data: Path | Iterable[Path], *, rows: int = 3, **kwargs: Any) -> list[dict[str, Any]]:
    """Rows of data as training would see them (`toktune preview`): for each its tokens, with `learnt` and `trained`; the totals last."""
    paths = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    return run_command("preview", *flags({"model": model, "data": paths, "rows": rows, **kwargs}))


def combine(adapters: Iterable[Path], output: Path, *, on_conflict: str = "error") -> dict[str, Any]:
    """Writes one adapter of several with different tokens; `on_conflict` (`"error"`, `"first"`, `"mean"`) decides where they have some
    in common. What became of the tokens."""
    return json.loads(_toktune.combine([os.fspath(one) for one in adapters], os.fspath(output), on_conflict))
