"""Names that clients choose: image ids, label tags, file extensions. All stay inside their folder."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from cfmri_server.problem import FieldError

#: What is accepted; the first is what images and labels are kept as, and what training reads.
IMAGE_EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
KEPT_EXTENSION = IMAGE_EXTENSIONS[0]

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SESSION_ID = re.compile(r"[0-9a-f-]{36}")


def is_image_id(text: str) -> bool:
    """Whether a text can be an image id: 1 to 128 letters, digits, dots, dashes, underscores; not only dots."""
    return _ID.fullmatch(text) is not None and text.strip(".") != ""


def require_image_id(text: str) -> str:
    """Return the image id.

    Raises:
        FieldError: It is not one.
    """
    if not is_image_id(text):
        raise _refusal("image", text, "1 to 128 of A-Z a-z 0-9 . _ -, not only dots")
    return text


def require_label_tag(text: str) -> str:
    """Return the label tag.

    Raises:
        FieldError: It is not one.
    """
    if not _TAG.fullmatch(text):
        raise _refusal("tag", text, "1 to 64 of A-Z a-z 0-9 _ -")
    return text


def require_session_id(text: str) -> str:
    """Return the session id.

    Raises:
        FieldError: It is not one that this server gives out.
    """
    if not _SESSION_ID.fullmatch(text):
        raise _refusal("session_id", text, "the id that PUT /session/ returned")
    return text


def require_image_extension(file_name: str, field: str = "file") -> str:
    """Return the extension of an image file's name; a name without any counts as ``.nii.gz``.

    Args:
        file_name: As the client sent it.
        field: Part of the request it came in.

    Raises:
        FieldError: It is not an accepted image format.
    """
    name = PurePosixPath(file_name.replace("\\", "/")).name.lower()
    if "." not in name:
        return ".nii.gz"
    for extension in IMAGE_EXTENSIONS:
        if name.endswith(extension):
            return extension
    raise _refusal(field, name, ", ".join(IMAGE_EXTENSIONS))


def image_id_of(file_name: str) -> str:
    """Return the image id that an image file's name makes: the name without its extension, other dots and all.

    Raises:
        FieldError: It makes none, or it is not an accepted image format.
    """
    extension = require_image_extension(file_name)
    name = PurePosixPath(file_name.replace("\\", "/")).name
    return require_image_id(name[: -len(extension)] if name.lower().endswith(extension) else name)


def require_file_name(file_name: str, field: str = "file") -> str:
    """Return the name of a file as the client sent it.

    Raises:
        FieldError: It holds a control character, which no file system call takes or no log should show.
    """
    if not file_name.isprintable():
        raise _refusal(field, file_name, "a file name of printable characters")
    return file_name


def _refusal(field: str, value: str, accepted: str) -> FieldError:
    return FieldError(f"{field} is not acceptable.", f"Use {accepted}.", field=field, value=value, accepted=accepted)
