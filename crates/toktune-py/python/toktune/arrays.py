"""Numbers between the engine, numpy and torch. Both are imported when they are needed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from .errors import InputError


def numpy_of(array: Any) -> Any:
    """The numbers of the engine as a numpy array, which is not to be written to, without a copy; bf16 as `ml_dtypes` has it.

    Raises:
        InputError: they are bf16, and `ml_dtypes` is not installed.
    """
    import numpy

    found = numpy.asarray(memoryview(array))
    if array.dtype != "bfloat16":
        return found
    try:
        import ml_dtypes
    except ImportError as error:
        raise InputError(
            'numpy has no bfloat16 but by the package ml_dtypes, which is not installed; return_tensors="pt" gives tensors of torch'
        ) from error
    return found.view(ml_dtypes.bfloat16)


def arrays_of(arrays: dict[str, Any], kind: str) -> dict[str, Any]:
    """Numbers of the engine as numpy arrays (`"np"`), or as tensors of torch (`"pt"`) by DLPack, both without a copy.

    Raises:
        InputError: another kind; what it needs is not installed.
    """
    if kind == "np":
        return {name: numpy_of(array) for name, array in arrays.items()}
    if kind != "pt":
        raise InputError(f'return_tensors: expected "np" or "pt", found {kind!r}')
    try:
        import torch
    except ImportError as error:
        raise InputError('return_tensors="pt" needs torch, which is not installed; "np" gives numpy arrays') from error
    return {name: torch.from_dlpack(array) for name, array in arrays.items()}


def is_torch(of: Any) -> bool:
    """Whether it is a tensor of torch; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(of, torch.Tensor)


def floats(of: Any) -> tuple[Any, tuple[int, int]]:
    """The bytes of a matrix as f32, and its shape: of a numpy array (bf16 by `ml_dtypes` too), a tensor, or what has DLPack."""
    import numpy

    if is_torch(of):
        of = of.detach().to("cpu").float().numpy()
    elif not isinstance(of, numpy.ndarray) and hasattr(of, "__dlpack__"):
        of = numpy.from_dlpack(of)
    matrix = numpy.ascontiguousarray(of, dtype=numpy.float32)
    if matrix.ndim != 2:
        raise InputError(f"expected a matrix, found an array of shape {matrix.shape}")
    return matrix.reshape(-1).view(numpy.uint8), matrix.shape


def ids_of(of: Any, mask: Any = None, name: str = "input_ids", least: int = 0) -> list[list[int]]:
    """Sequences of ids, from a list, a list of lists, or an array of one or two dimensions; without what a mask calls padding.

    Raises:
        InputError: there is none; an id is below `least`, or no id at all.
    """
    if isinstance(of, (str, bytes)) or not (hasattr(of, "tolist") or hasattr(of, "__iter__")):
        raise TypeError(f"{name}: expected ids, found {of!r}")
    rows = of.tolist() if hasattr(of, "tolist") else list(of)
    if rows and not isinstance(rows[0], (list, tuple)) and not hasattr(rows[0], "tolist"):
        rows = [rows]
    rows = [row.tolist() if hasattr(row, "tolist") else list(row) for row in rows]
    if not rows:
        raise InputError(f"{name}: expected at least one sequence, found none")
    for row in rows:
        for id in row:
            if not hasattr(id, "__index__"):
                raise TypeError(f"{name}: expected integers, found {id!r}")
            if not least <= id < 1 << 32:
                raise InputError(f"{name}: expected ids from {least}, found {id}")
    if mask is None:
        return rows
    masks = ids_of(mask, name="attention_mask")
    if [len(row) for row in rows] != [len(row) for row in masks]:
        raise InputError(f"attention_mask: expected the shape of {name}")
    return [[id for id, kept in zip(row, mask, strict=True) if kept] for row, mask in zip(rows, masks, strict=True)]


def padded(rows: Sequence[Sequence[int]], with_id: int, *, left: bool = False, least: int = 0) -> list[list[int]]:
    """Rows of one length, which is at least `least`."""
    longest = max((len(row) for row in rows), default=0)
    longest = max(longest, least)
    fill = [[with_id] * (longest - len(row)) for row in rows]
    return [more + list(row) if left else list(row) + more for row, more in zip(rows, fill)]
