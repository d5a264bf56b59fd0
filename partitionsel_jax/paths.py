"""Paths as users give them: on disk, or in a bucket."""

import os

from etils import epath

from partitionsel_jax.file_errors import one_line

_LONGEST = 4000  # bytes; Linux takes no longer path
# The package that reads a scheme's buckets.
_READERS = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs", "hf": "huggingface_hub"}


def absolute(path: epath.PathLike, name: str = "") -> epath.Path:
    """Returns a path that means the same from any directory; "~" is the home.

    Args:
      path: of a file or a folder, or of a bucket, which stays as it is.
      name: what errors call it; the path itself if empty.

    Raises:
      ValueError: an empty path, which would be the current directory, one that is too long, or a
        bucket that cannot be reached.
    """
    text = os.fspath(path)
    if not text.strip():
        raise ValueError(
            f"{name or 'a path'} is empty (a shell variable that is not set?): name a file or a "
            "folder; . is the current one"
        )
    name, scheme = name or text, text.partition("://")[0]
    if len(os.fsencode(text)) > _LONGEST:
        raise ValueError(f"{name:.40} has {len(text)} characters, too many for a path")
    if scheme == text:
        return epath.Path(os.path.abspath(os.path.expanduser(text)))
    if scheme not in _READERS:
        raise ValueError(
            f"{name}: no bucket is read by {scheme}://; known are "
            f"{', '.join(f'{known}://' for known in _READERS)}, and paths on disk without any"
        )
    try:
        bucket = epath.Path(text)
        bucket.exists()
    except ImportError:
        raise ValueError(
            f"{name}: buckets of {scheme}:// need another package: pip install {_READERS[scheme]}"
        ) from None
    except Exception as error:  # no network, no credentials: whatever a client raises
        raise ValueError(f"{name} cannot be reached ({one_line(error)})") from error
    return bucket
