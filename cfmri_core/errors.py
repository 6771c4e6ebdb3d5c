"""Typed errors, and the one table that maps each to an HTTP status and an exit code."""

from __future__ import annotations


class CfmriError(Exception):
    """Base of every error cfmri raises on purpose.

    The message names what was wrong (file, value, accepted range) and never holds patient data
    beyond the path that the user typed; the hint names the next step.
    """

    http_status = 500
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class RequestError(CfmriError):
    """The caller asked for something that cannot be asked for."""

    http_status = 422
    exit_code = 2


class AcquisitionError(CfmriError):
    """An acquisition parameter is missing, unreadable or out of range.

    Attributes:
        field: Name of the parameter, or an empty string.
        value: The offending value as given.
        accepted: The accepted range or choices, in words.
    """

    http_status = 422
    exit_code = 2

    def __init__(
        self, message: str, hint: str = "", *, field: str = "", value: object = None, accepted: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.field = field
        self.value = value
        self.accepted = accepted


class DicomReadError(CfmriError):
    """A file or folder is not a readable MR image series."""

    http_status = 422
    exit_code = 3


class UnreadableFileError(DicomReadError):
    """A file could not be read this time, for want of the disk or of memory; what it holds is not known."""


class UnsupportedImageError(DicomReadError):
    """A whole DICOM file of a kind that this package does not read."""


class SeveralVolumesError(DicomReadError):
    """A series with several images at one position: echoes, time points, b-values, copies."""


class GeometryError(CfmriError):
    """Slices or grids do not form one regular volume."""

    http_status = 422
    exit_code = 4


class CheckpointError(CfmriError):
    """A model folder is absent, damaged or of another kind."""

    http_status = 503
    exit_code = 5


class OtherWeightsError(CheckpointError):
    """Statistics in a model folder belong to other weights than lie beside them."""


class ModelOutputError(CfmriError):
    """A network produced NaN, a constant, or something else that cannot be an image."""

    http_status = 500
    exit_code = 6


class ResourceError(CfmriError):
    """Memory or disk ran out."""

    http_status = 507
    exit_code = 7


class RemoteError(CfmriError):
    """A PACS or server did not do what was asked.

    Attributes:
        retryable: Whether the same request may succeed later.
        retry_after_s: How long the other side asked to be left alone, in seconds.
    """

    http_status = 502
    exit_code = 8

    def __init__(self, message: str, hint: str = "", *, retryable: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class RefusedError(CfmriError):
    """An edit outside the support, or one that failed its acceptance check; nothing was written."""

    http_status = 422
    exit_code = 9


class Cancelled(CfmriError):  # noqa: N818 - what the user wished is not an error
    """The user cancelled the work; nothing was written."""

    http_status = 409
    exit_code = 130
