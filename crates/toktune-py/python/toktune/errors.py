"""What can go wrong. Every exception is a `toktune.Error`, and what Python people expect of its kind besides."""

__all__ = ["DivergedError", "Error", "FileError", "InputError", "MissingFileError", "OutputError"]


class Error(Exception):
    """A fault that toktune found. The message names the file, tensor, row or argument, what was found and what was expected."""


class InputError(Error, ValueError):
    """An argument, a model, an adapter or data are not what they should be."""


class MissingFileError(Error, FileNotFoundError):
    """A file or folder is not there."""


class FileError(Error, OSError):
    """A file cannot be read or written."""


class OutputError(Error, FileExistsError):
    """The output folder holds something else, or another run writes into it."""


class DivergedError(Error, ArithmeticError):
    """Training left the finite numbers; the last good rows are saved, and the message says where."""
