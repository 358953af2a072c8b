"""The operating system's errors, also where a library reports them in an error of its own."""

import errno
import os
import re

DISK = frozenset(
    {
        *(errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EPERM),
        *(errno.EROFS, errno.ESTALE, errno.ETIMEDOUT),
    }
)
"""What is no fault of a file's content: the disk is full, fails or forbids it, or too many files are open."""

_CODE = re.compile(r"os_error_code='(\d+)'")  # TensorStore
_TEXTS = {os.strerror(number).lower(): number for number in DISK}
_TEXT = re.compile("|".join(map(re.escape, _TEXTS)), re.IGNORECASE)


def number_of(error: BaseException) -> int | None:
    """Return the `errno` behind an error; None if it is none of the system's.

    Args:
        error: an OSError, or what TensorStore, safetensors or array_record raise in its place.

    Example:
        >>> number_of(ValueError("UNKNOWN: Failed to fsync file: Input/output error [os_error_code='5']"))
        5
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    code = _CODE.search(str(error))
    if code:
        return int(code[1])
    text = _TEXT.search(str(error))
    return _TEXTS[text[0].lower()] if text else None
