"""The notes' sound in an object store, where several machines share the work.

Without one, a note's file stays in the data folder. With one, an upload is still gathered there, because only a local
file can be appended to and synced; when it is whole, and before it is confirmed, it goes to the store, and the local
file is a cache from then on.
"""

import errno
import hashlib
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

TIMEOUT = timedelta(seconds=60)
CONNECT_TIMEOUT = timedelta(seconds=5)
RETRY_TIMEOUT = timedelta(seconds=20)
PIECE_BYTES = 1024 * 1024


class ObjectStorage:
    """A bucket or a part of it. Every method blocks and raises OSError, with the place in its text.

    Credentials and endpoint come from the environment, as AWS's own tools name them: AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL."""

    def __init__(self, url: str) -> None:
        """`url` as in the setting OFFBEAT_STORAGE. Nothing is connected yet. Raises ValueError."""
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        self.url = url
        self._failure: type[Exception] = BaseError
        options: Any = {}
        if url.startswith("s3://"):
            options = {
                # The store then checks what it got against a digest that was made here.
                "config": {"checksum_algorithm": "SHA256"},
                "client_options": {
                    "timeout": TIMEOUT,
                    "connect_timeout": CONNECT_TIMEOUT,
                    "allow_http": os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"),
                },
                "retry_config": {"max_retries": 3, "retry_timeout": RETRY_TIMEOUT},
            }
        else:
            options = {"mkdir": True}
        try:
            self._store: Any = from_url(url, **options)
        except (BaseError, ValueError) as error:
            raise ValueError(f"OFFBEAT_STORAGE={url!r} cannot be used: {error}") from error

    @staticmethod
    def key(note_id: str) -> str:
        """Where a note lies in the store."""
        return f"notes/{note_id}"

    def keep(self, note_id: str, path: Path) -> None:
        """Returns when the store has the whole file. May be repeated."""
        import obstore

        try:
            with open(path, "rb") as file:
                obstore.put(self._store, self.key(note_id), file)
        except self._failure as error:
            raise self._error(error) from error

    def fetch(self, note_id: str, path: Path) -> None:
        """Makes a local copy; the file is whole or not there. Raises FileNotFoundError where the store has none."""
        import obstore

        descriptor, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in obstore.get(self._store, self.key(note_id)).stream(min_chunk_size=PIECE_BYTES):
                    file.write(piece)
            os.replace(part, path)
        except self._failure as error:
            os.unlink(part)
            raise self._error(error) from error
        except BaseException:
            os.unlink(part)
            raise

    def remove(self, note_id: str) -> None:
        """No harm if it is not there."""
        import obstore

        try:
            obstore.delete(self._store, self.key(note_id))
        except FileNotFoundError:
            pass
        except self._failure as error:
            raise self._error(error) from error

    def size(self, note_id: str) -> int | None:
        """Length in bytes of what the store has; None where it has none."""
        import obstore

        try:
            return int(obstore.head(self._store, self.key(note_id))["size"])
        except FileNotFoundError:
            return None
        except self._failure as error:
            raise self._error(error) from error

    def digest(self, note_id: str) -> tuple[int, str] | None:
        """Length and SHA-256 (hexadecimal) of what the store has, read back from it; None where it has none."""
        import obstore

        sha256, length = hashlib.sha256(), 0
        try:
            for piece in obstore.get(self._store, self.key(note_id)).stream(min_chunk_size=PIECE_BYTES):
                sha256.update(piece)
                length += len(piece)
        except FileNotFoundError:
            return None
        except self._failure as error:
            raise self._error(error) from error
        return length, sha256.hexdigest()

    def check(self) -> None:
        """Writes, reads and removes a small object."""
        import obstore

        key, content = "notes/.check", os.urandom(16)
        try:
            obstore.put(self._store, key, content)
            got = bytes(obstore.get(self._store, key).bytes())
            obstore.delete(self._store, key)
        except self._failure as error:
            raise self._error(error) from error
        if got != content:
            raise OSError(errno.EIO, f"{self.url} gives back other bytes than were written")

    def _error(self, error: Exception) -> OSError:
        if isinstance(error, OSError):
            return error
        words = " ".join(str(error).split())[:300]
        return OSError(errno.EIO, f"{self.url}: {type(error).__name__}: {words}")


def digest_of(path: Path) -> tuple[int, str] | None:
    """Length and SHA-256 (hexadecimal) of a file; None where there is none."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
