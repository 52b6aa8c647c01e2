"""`offbeat backup` and `offbeat restore`: one archive (tar) of the database, the certificate and the notes' sound.

The database is copied first, in one consistent state; a note's file never changes once its row says that it is whole,
so the files of the notes in that copy belong to it. A note that is deleted meanwhile is left out with its file.
"""

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from offbeat import __version__, move
from offbeat.settings import Settings
from offbeat.storage import digest_of
from offbeat.store import Store, StoreError, copy_database, notes, only_server, sync_file, sync_folder

DATABASE = "offbeat.sqlite"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 256 * 1024 * 1024
PIECE_BYTES = 1024 * 1024
# What an archive may hold beside its manifest: nothing that leads out of the folder.
MEMBER = re.compile(r"offbeat\.sqlite|[a-z0-9-]{1,40}\.pem|notes/[A-Za-z0-9_-]{1,64}\.(wav|sound)")


def backup(store: Store, archive: Path) -> dict[str, int]:
    """Writes the archive; it is whole or not there. The server may run. Returns counts and bytes.

    Raises StoreError and OSError."""
    if archive.exists():
        raise StoreError(f"{archive} exists already: choose another name")
    part = archive.with_name(archive.name + ".part")
    part.unlink(missing_ok=True)
    gone = 0
    with tempfile.TemporaryDirectory(dir=store.settings.cache, prefix="backup-") as folder:
        copy = _database(store, Path(folder))
        files: dict[str, list[Any]] = {}  # name in the archive -> length, SHA-256
        try:
            with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
                with tarfile.open(fileobj=out, mode="w") as tar:
                    certificates = [one for one in store.settings.data.glob("*.pem") if MEMBER.fullmatch(one.name)]
                    for path in [copy, *sorted(certificates)]:
                        files[path.name] = list(_add(tar, path, path.name))
                    for note_id, length_bytes, sha256 in _sound_of(copy):
                        name = f"notes/{store.note_path(note_id).name}"
                        try:
                            found = _add(tar, store.sound_path(note_id), name)
                        except FileNotFoundError:
                            if not _deleted(store, note_id):
                                raise StoreError(f"the sound of the note {note_id} is missing") from None
                            gone += 1
                            continue
                        if found != (length_bytes, sha256):
                            raise StoreError(f"the sound of the note {note_id} is damaged: it has another digest")
                        files[name] = list(found)
                    content = json.dumps({"offbeat": __version__, "files": files}, indent=1).encode()
                    entry = tarfile.TarInfo(MANIFEST)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, archive)
            sync_folder(archive.absolute().parent)
        finally:
            part.unlink(missing_ok=True)
    sound = sum(name.startswith("notes/") for name in files)
    return {"notes": sound, "deleted_meanwhile": gone, "bytes": archive.stat().st_size}


def _database(store: Store, folder: Path) -> Path:
    """A consistent copy of the database, as SQLite."""
    copy = folder / DATABASE
    if store.engine.dialect.name == "sqlite":
        try:
            copy_database(store.settings.database, copy)
        except sqlite3.Error as error:
            raise StoreError(f"{store.settings.database} cannot be copied: {error}") from error
        return copy
    target = Store(Settings(data=folder / "data", database_url="", storage=""))
    try:
        # In one snapshot, so that the server may go on writing.
        frozen = store.engine.execution_options(isolation_level="REPEATABLE READ")
        with frozen.connect() as connection:
            move.copy_tables(_Frozen(connection), target, lambda _line: None)
    finally:
        target.close()
    copy_database(target.settings.database, copy)
    return copy


def _sound_of(database: Path) -> list[tuple[str, int, str]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(str(move.has_sound().compile(compile_kwargs={"literal_binds": True}))).fetchall()


def _deleted(store: Store, note_id: str) -> bool:
    with store.read() as connection:
        row = connection.execute(notes.select().where(notes.c.id == note_id)).one_or_none()
    return row is None or row.deleted_ms is not None


def _add(tar: tarfile.TarFile, path: Path, name: str) -> tuple[int, str]:
    """Adds a file. Returns length and SHA-256 of what went into the archive. Raises FileNotFoundError."""
    with open(path, "rb") as file:
        entry = tarfile.TarInfo(name)
        entry.size = os.fstat(file.fileno()).st_size
        entry.mode = 0o600
        entry.mtime = int(os.fstat(file.fileno()).st_mtime)
        watched = _Digesting(file)
        tar.addfile(entry, watched)
        return entry.size, watched.sha256.hexdigest()


class _Digesting:
    """A file that is digested as it is read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._file.read(size)
        self.sha256.update(piece)
        return piece


class _Frozen:
    """A store whose readers all see one state of the database."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def read(self) -> AbstractContextManager[sa.Connection]:
        return nullcontext(self._connection)


def restore(settings: Settings, archive: Path) -> dict[str, int]:
    """Unpacks an archive into the data folder, which must hold no database yet, and verifies it before it counts.

    Cut off, it may be repeated: the database comes last. Raises StoreError and OSError."""
    if settings.database_url:
        raise StoreError(
            "OFFBEAT_DATABASE_URL is set: a backup is restored to a data folder with SQLite. Unset it (and "
            "OFFBEAT_STORAGE), restore, and take the result to PostgreSQL with `offbeat move`."
        )
    # What is left of another database is not to be taken for the end of this one.
    there = [path.name for path in settings.data.glob(f"{DATABASE}*") if path.is_file()]
    if there:
        raise StoreError(
            f"{settings.data} holds {', '.join(sorted(there))}: restore to another, empty folder (OFFBEAT_DATA), or "
            "move them away together, for they are one database"
        )
    with only_server(settings), tempfile.TemporaryDirectory(dir=settings.data, prefix=".restore-") as name:
        folder = Path(name)
        (folder / "notes").mkdir()
        manifest = _unpack(archive, folder)
        _check(archive, folder, manifest)
        settings.notes.mkdir(mode=0o700, exist_ok=True)
        for member in sorted(manifest, key=lambda one: one == DATABASE):  # False sorts first: the database last
            sync_file(folder / member)
            os.replace(folder / member, settings.data / member)
        sync_folder(settings.notes)
        sync_folder(settings.data)
    return {"notes": sum(member.startswith("notes/") for member in manifest)}


def _unpack(archive: Path, folder: Path) -> dict[str, tuple[int, str]]:
    """Unpacks what has a proper name. Returns what the manifest says."""
    manifest: dict[str, tuple[int, str]] | None = None
    try:
        with tarfile.open(archive, "r:") as tar:
            for entry in tar:
                file = tar.extractfile(entry) if entry.isreg() else None
                if file is None or not (entry.name == MANIFEST or MEMBER.fullmatch(entry.name)):
                    raise StoreError(f"{archive} is no backup of Offbeat: it holds {entry.name!r}")
                if entry.name == MANIFEST:
                    if entry.size > MAX_MANIFEST_BYTES:
                        raise StoreError(f"{archive} is damaged: its manifest is too long")
                    told = json.loads(file.read())["files"]
                    manifest = {str(name): (int(size), str(digest)) for name, (size, digest) in told.items()}
                else:
                    descriptor = os.open(folder / entry.name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                    with open(descriptor, "wb") as out:
                        shutil.copyfileobj(file, out, PIECE_BYTES)
    except (tarfile.TarError, ValueError, KeyError, TypeError, FileExistsError) as error:
        raise StoreError(f"{archive} is no backup of Offbeat, or it is damaged: {error}") from error
    if manifest is None or DATABASE not in manifest:
        raise StoreError(f"{archive} is not whole: its end is missing")
    return manifest


def _check(archive: Path, folder: Path, manifest: dict[str, tuple[int, str]]) -> None:
    for name, wanted in manifest.items():
        if not MEMBER.fullmatch(name) or digest_of(folder / name) != wanted:
            raise StoreError(f"{archive} is damaged: {name} is missing or has another digest than at the backup")
    try:
        with closing(sqlite3.connect(folder / DATABASE)) as connection:
            answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.Error as error:
        answer = str(error)
    if answer != "ok":
        raise StoreError(f"{archive} is damaged: its database is not whole ({answer})")
