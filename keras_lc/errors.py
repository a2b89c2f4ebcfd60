"""The errors of the package: what was found, what was expected, what to do."""


class CheckpointError(Exception):
    """Base of every error that keras_lc raises on purpose.

    Example:
        >>> from keras_lc import CheckpointError
        >>> issubclass(CheckpointError, Exception)
        True
    """

    def __str__(self) -> str:  # KeyError, a parent of one kind, would print a repr
        return str(self.args[0]) if self.args else ""


class StoreError(CheckpointError, OSError):
    """A path cannot be written or read."""


class LockedError(StoreError):
    """Another live process writes into the directory."""


class NotFoundError(CheckpointError, FileNotFoundError):
    """A checkpoint that was named does not exist."""


class DamagedError(CheckpointError):
    """A file or record is truncated, altered, or lacks what it builds on."""


class FormatError(CheckpointError):
    """A file is of a newer format, or of no format of this package."""


class MismatchError(CheckpointError, ValueError):
    """A checkpoint and the model or base it is used with do not fit each other."""


class TemplateError(CheckpointError, KeyError, ValueError):
    """A file path template cannot be filled in."""


class OptionError(CheckpointError, ValueError, TypeError):
    """An argument has a value that is not understood."""


class ChangedError(CheckpointError, ValueError):
    """What is cached was made with other arguments, other data, or from another parent."""
