"""The notes that the server has not confirmed yet: one folder on the flash.

    ORDER-HEX16.wav   a note, whole; HEX16 is the random part of its id, ORDER six digits that grow from note to note
    storing           the one that is being written
    HEX16.bad         set aside: bytes of which no sound can be had

A note leaves only when the server has confirmed its id, length and SHA-256. LittleFS keeps a folder sorted by name, so
the first note in it is the oldest; on another file system the order is that file system's, and nothing but the order
depends on it.

Listing 500 notes takes LittleFS 23,000 reads of at most 128 bytes, about half a second on the chip (estimate: 20 µs
each). So the start lists none; `load` does it bit by bit when there is time, and whatever needs the list does the rest.
A listing is never left half-way: LittleFS would have it closed by the garbage collector, in the middle of anything.
Where memory is short for a moment, a listing goes on to its end all the same, and another one finds what it lost.
12 bytes of memory are kept of each note, in pieces: one for 500 notes is not to be had in a heap that was long in use.
Pure: runs on any folder.
"""

import binascii
import errno
import os

from pendant import wav

FLUSH_BYTES = 32768  # what a power cut may take from a note that is being stored; LittleFS keeps nothing unflushed
RESERVE_BYTES = 65536  # of the flash, left free for LittleFS itself and for what is not a note
_STORING = "storing"
_RECORD_BYTES = 12  # of a note in memory: its order, 4 bytes, and the random part of its id
_PIECE_BYTES = 32 * _RECORD_BYTES


class Spool:
    """`folder`: its path, made if it is missing. `device`: the device's id. `random`: os.urandom or its like."""

    def __init__(self, folder: str, device: str, random):
        self._folder = folder
        self._device = device
        self._random = random
        if not _exists(folder):
            os.mkdir(folder)
        self._pieces: list = []  # of records of the notes that are known, the oldest first; none of them is empty
        self._order = -1  # of the last note that is known
        self._all = False  # are known
        self._listing = None  # of the others, where it has begun
        self._missed = False  # something, in this listing

    def load(self, most=16) -> bool:
        """Get to know at most so many more of the names in the folder. True when all are known. After a MemoryError it
        may be called again."""
        while not self._all and most:
            try:
                if self._listing is None:
                    self._pieces, self._order, self._missed = [], -1, False
                    self._listing = _names(self._folder)
                entry = next(self._listing, None)
                if entry is not None and _is_note(entry[0]):
                    self._know(int(entry[0][:6]), entry[0][7:23])
            except MemoryError:
                self._missed = True
                raise
            if entry is None:
                self._listing, self._all = None, not self._missed
            most -= 1
        return self._all

    def may_wait(self) -> bool:
        """Whether a note waits, as far as is known without listing or memory."""
        return not self._all or bool(self._pieces)

    @property
    def waiting(self) -> int:
        """Whole notes in the folder."""
        self._load_all()
        return sum(len(piece) for piece in self._pieces) // _RECORD_BYTES

    def new_id(self) -> str:
        """A fresh id: the device and 64 random bits."""
        return "%s-%s" % (self._device, "".join("%02x" % byte for byte in self._random(8)))

    def path(self, note_id: str) -> str:
        """Of a note's file. OSError if it does not wait here."""
        piece, at = self._find(note_id)
        if piece is None:
            raise OSError(errno.ENOENT)
        order = int.from_bytes(piece[at : at + 4], "big")
        return self._file("%06d-%s.wav" % (order, note_id[-16:]))

    def length(self, note_id: str) -> int:
        """Bytes of a note's file."""
        return os.stat(self.path(note_id))[6]

    def free_bytes(self) -> int:
        """Flash that notes may still take. Slow on LittleFS: it walks all files."""
        status = os.statvfs(self._folder)
        return max(0, status[1] * status[3] - RESERVE_BYTES)

    def interrupted(self) -> bool:
        """A note was being stored when the power went: `recover` will need the list of all others."""
        return _exists(self._file(_STORING))

    def recover(self):
        """Mend what a power cut left of a note that was being stored. Returns a sentence about it, or None.

        A note whose sound began to arrive is kept as a note: its file ends early, which readers see from its header
        (docs/protocol.md). What holds no sound is set aside.
        """
        if not self.interrupted():
            return None
        storing = self._file(_STORING)
        size_bytes = os.stat(storing)[6]
        if size_bytes == 0:
            os.remove(storing)  # was cut before its first flush: there is nothing in it
            return "a note was cut off by a power loss before any of it was stored"
        note = _read(storing, size_bytes)
        if note is None or not note.blocks:
            aside = self.new_id()[-16:] + ".bad"
            os.rename(storing, self._file(aside))
            return "%s was set aside: %d bytes that are no note" % (aside, size_bytes)
        note_id = self._keep(note.meta.get("id"))
        if not note.cut:
            return None
        return "%s was cut off by a power loss after %d samples" % (note_id, note.samples)

    def writer(self, note_id: str):
        """A Writer for a new note. One at a time."""
        return Writer(self, note_id)

    def first(self, after=None):
        """The id of the oldest note that waits, or of the first one behind the note `after`; None if there is none."""
        self._load_all()
        passed = None if after is None else binascii.unhexlify(after[-16:])
        for piece in self._pieces:
            for at in range(0, len(piece), _RECORD_BYTES):
                random_part = bytes(piece[at + 4 : at + _RECORD_BYTES])
                if passed is None:
                    return "%s-%s" % (self._device, binascii.hexlify(random_part).decode())
                if random_part == passed:
                    passed = None
        return None

    def renew(self, note_id: str) -> str:
        """Give a note a new id, which is returned: the server has another note under the old one.

        The metadata inside the file keeps the id that was drawn at the recording, and the note its place in the order.
        """
        new_id = self.new_id()
        old = self.path(note_id)
        os.rename(old, old[:-20] + new_id[-16:] + ".wav")
        try:
            piece, at = self._find(note_id)
            piece[at + 4 : at + _RECORD_BYTES] = binascii.unhexlify(new_id[-16:])
        except MemoryError:
            self._all = False
        return new_id

    def confirm(self, note_id: str, length: int, sha256: str, confirmed: dict) -> bool:
        """Delete a note if `confirmed` ({"id", "length", "sha256"} as the server stored it) is that note, of this
        length and SHA-256 (hexadecimal). True if it was deleted.
        """
        for key, own in (("id", note_id), ("length", length), ("sha256", sha256)):
            if confirmed.get(key) != own:
                return False
        path = self.path(note_id)
        if os.stat(path)[6] != length:
            return False
        piece, at = self._find(note_id)
        os.remove(path)
        try:
            self._forget(piece, at)
        except MemoryError:
            self._all = False  # so its record is not used, and a new listing makes none
        return True

    def _file(self, name):
        return self._folder + "/" + name

    def _load_all(self):
        while not self.load():
            pass

    def _know(self, order, random_part):
        record = order.to_bytes(4, "big") + binascii.unhexlify(random_part)
        if self._pieces and len(self._pieces[-1]) < _PIECE_BYTES:
            self._pieces[-1] += record
        else:
            self._pieces.append(bytearray(record))
        self._order = max(self._order, order)

    def _find(self, note_id):
        """Where the record of a note is, the piece and the place in it; (None, None) if it does not wait here."""
        self._load_all()
        wanted = binascii.unhexlify(note_id[-16:])
        for piece in self._pieces:
            for at in range(0, len(piece), _RECORD_BYTES):
                if piece[at + 4 : at + _RECORD_BYTES] == wanted:
                    return piece, at
        return None, None

    def _forget(self, piece, at):
        piece[at : at + _RECORD_BYTES] = b""
        if not piece:
            self._pieces.remove(piece)

    def _keep(self, note_id):
        """What is being stored becomes a note: under its id, or a new one if that is not fit. Returns the id."""
        if not _is_id(note_id, self._device) or self._find(note_id)[0] is not None:
            note_id = self.new_id()
        if not self.waiting:
            self._order = -1
        order = self._order + 1
        storing, name = self._file(_STORING), self._file("%06d-%s.wav" % (order, note_id[-16:]))
        self._know(order, note_id[-16:])  # before the rename, after which nothing may go wrong: it needs memory
        try:
            os.rename(storing, name)
        except (OSError, MemoryError):
            self._all = False  # its record stands for nothing
            raise
        return note_id


class Writer:
    """Writes one note under a temporary name, flushing every 32 kB, and renames it at the end.

    OSError when the flash is full or broken: then the note is still to be stored, by another Writer.
    """

    def __init__(self, spool, note_id):
        self.note_id = note_id
        self._spool = spool
        self._unflushed_bytes = 0
        self._path = spool._file(_STORING)
        if _exists(self._path):  # a failed try; opened as it is, LittleFS would free its blocks only at the next flush
            os.remove(self._path)
        self._file = open(self._path, "wb")

    def write(self, data):
        self._file.write(data)
        self._unflushed_bytes += len(data)
        if self._unflushed_bytes >= FLUSH_BYTES:
            self._file.flush()
            self._unflushed_bytes = 0

    def abandon(self):
        """Close it as it stands: the next Writer begins anew, or after a power cut `recover` keeps what is there."""
        try:
            self._file.close()
        except OSError:
            pass  # a full flash says so once more when the rest cannot be flushed

    def finish(self) -> str:
        """Close it: it is a note from now on, and whole. Returns its id."""
        self._file.close()
        size_bytes = os.stat(self._path)[6]
        note = _read(self._path, size_bytes)
        if note is None or note.cut:
            raise OSError("only %d bytes of %s are on the flash" % (size_bytes, self.note_id))
        return self._spool._keep(self.note_id)


def _read(path, size_bytes):
    with open(path, "rb") as file:
        return wav.read(file.read(wav.HEAD_BYTES), size_bytes)


def _is_id(text, device):
    if not isinstance(text, str) or len(text) != len(device) + 17 or text[:-16] != device + "-":
        return False
    return _is_random(text[-16:])


def _names(folder):
    """What is in a folder, each a tuple that begins with the name."""
    return os.ilistdir(folder) if hasattr(os, "ilistdir") else zip(sorted(os.listdir(folder)))


def _is_note(name):
    return len(name) == 27 and name.endswith(".wav") and name[:6].isdigit() and _is_random(name[7:23])


def _is_random(text):
    return all(c in "0123456789abcdef" for c in text)


def _exists(path):
    try:
        os.stat(path)
    except OSError:
        return False
    return True
