"""This program as one of several that MPI has started (`mpirun -n 4 python train.py`)."""

from __future__ import annotations

import atexit
import sys
from typing import NamedTuple

from . import _toktune


class Process(NamedTuple):
    """Which of the processes this one is."""

    rank: int
    count: int
    on_this_machine: int


_joined: list[Process] = []


def process() -> Process:
    """This process, which joins the others when this is asked first; 0 of 1 where it was started alone.

    Raises:
        InputError: there are others, and the package is built without MPI.
    """
    if not _joined:
        found = _toktune.processes()
        _joined.append(Process(*(found or (0, 1, 1))))
        if found is not None:
            _leave_at_the_end()
    return _joined[0]


def _leave_at_the_end() -> None:
    """Leaves the others in peace when the program ends, and ends them when it fails: they would wait for this one for ever."""
    usual = sys.excepthook

    def fails(*told) -> None:
        usual(*told)
        sys.stderr.flush()
        _toktune.abort_processes(1)

    sys.excepthook = fails
    atexit.register(_toktune.leave_processes)
