"""The errors micro_sam raises on purpose.

Each one also inherits the builtin it is closest to, so that ``except ValueError`` goes on working. Every message
is one sentence that says what was expected, what came and what to do.
"""


class MicroSamError(Exception):
    """Base of all errors raised by micro_sam on purpose. The commands print them in one line, without a traceback."""


class ImageError(MicroSamError, ValueError):
    """An image cannot be segmented as it is (shape, dtype or content)."""


class PromptError(MicroSamError, ValueError):
    """A prompt (point, box or mask) is malformed or does not lie in the image."""


class ParameterError(MicroSamError, ValueError):
    """A parameter has a value outside what it accepts."""


class UnknownModelError(MicroSamError, ValueError):
    """No model of that name is registered."""


class CheckpointError(MicroSamError, ValueError):
    """A checkpoint file cannot be read, is not safe to read, or does not hold the expected model."""


class DownloadError(MicroSamError, OSError):
    """A file could not be downloaded, or what came does not have the expected hash."""


class DeviceError(MicroSamError, ValueError):
    """The requested compute device does not exist here."""


class StoreError(MicroSamError, RuntimeError):
    """An embedding store cannot be used."""


class StoreMismatchError(StoreError, ValueError):
    """An embedding store belongs to another image, model, tiling or normalisation."""


class StoreDamagedError(StoreError, OSError):
    """Data in an embedding store is unreadable or could not be written."""


class StoreLockedError(StoreError, BlockingIOError):
    """Another process is writing to the embedding store."""


class InputError(MicroSamError, OSError):
    """An input file cannot be read."""


class MissingInputError(InputError, FileNotFoundError):
    """An input file or folder does not exist."""


class OutputError(MicroSamError, OSError):
    """A result cannot be written."""


class MissingDependencyError(MicroSamError, ImportError):
    """An optional package is needed and not installed; the message says what to install."""


class ClusterError(MicroSamError, RuntimeError):
    """A Dask cluster does not answer, or its workers cannot do the work."""


class TrackError(MicroSamError, ValueError):
    """Tracks, lineages and labels do not fit each other, or time does not run forwards in them."""
