"""The spool over a real folder."""

import binascii
import os

from pendant import spool as spool_module
from pendant import wav
from pendant.spool import Spool

BLOCK = bytes(range(256))
STAMP = {"counter": "0badc0de", "start_ms": 1, "asleep_ms": 0}


class Folder:
    """A temporary folder that is emptied and removed."""

    def __init__(self):
        self.path = "/tmp/spool-" + binascii.hexlify(os.urandom(8)).decode()

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        for name in os.listdir(self.path):
            os.remove(self.path + "/" + name)
        os.rmdir(self.path)


def counting():
    """A "random" that counts, so that ids are known."""
    state = [0]

    def random(count):
        state[0] += 1
        return bytes([state[0]] * count)

    return random


def store(spool, blocks=3):
    writer = spool.writer(spool.new_id())
    writer.write(wav.header(writer.note_id, STAMP, 0, blocks))
    for _ in range(blocks):
        writer.write(BLOCK)
    return writer.finish()


def leave_behind(path, announced, data_bytes):
    """What a power cut leaves of a note of `announced` blocks."""
    note = wav.header("p7-00112233445566ff", STAMP, 0, announced) + BLOCK * announced
    with open(path + "/storing", "wb") as file:
        file.write(note[:data_bytes])
    return note[:data_bytes]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def test_store_and_confirm():
    with Folder() as path:
        spool = Spool(path, "p7", counting())
        assert spool.waiting == 0 and spool.first() is None
        note_id = store(spool)
        assert note_id == "p7-0101010101010101" and spool.waiting == 1 and spool.first() == note_id
        length = spool.length(note_id)
        assert read(spool.path(note_id)) == wav.header(note_id, STAMP, 0, 3) + BLOCK * 3
        good = {"id": note_id, "length": length, "sha256": "ab" * 32}
        for key, value in (("id", "p7-0101010101010102"), ("length", length + 1), ("sha256", "ac" * 32)):
            wrong = dict(good)
            wrong[key] = value
            assert not spool.confirm(note_id, length, "ab" * 32, wrong)
        assert not spool.confirm(note_id, length, "ab" * 32, {})
        wrong = dict(good)
        wrong["length"] = length - 1
        assert not spool.confirm(note_id, length - 1, "ab" * 32, wrong)  # right for the server, not for the file
        assert spool.first() == note_id
        good["more"] = "is ignored"
        assert spool.confirm(note_id, length, "ab" * 32, good)
        assert spool.waiting == 0 and os.listdir(path) == []


def all_of(spool):
    """The ids of all notes, in the spool's order."""
    ids, note_id = [], spool.first()
    while note_id is not None:
        ids.append(note_id)
        note_id = spool.first(note_id)
    return ids


def test_ids_are_random_and_a_restart_finds_all():
    with Folder() as path:
        spool = Spool(path, "p7", os.urandom)
        ids = [store(spool, 1) for _ in range(20)]
        assert len(set(ids)) == 20
        assert all(len(i) == 19 and i[:3] == "p7-" for i in ids)
        again = Spool(path, "p7", os.urandom)
        assert again.waiting == 20 and again.recover() is None
        assert sorted(all_of(again)) == sorted(ids)
        assert again.first("p7-0000000000000000") is None, "behind a note that is not there"


def test_the_order_of_the_files_is_that_of_the_recordings():
    """A file system that keeps a folder sorted, as LittleFS does, gives the oldest first."""
    with Folder() as path:
        ids = []
        for _ in range(3):  # starts
            spool = Spool(path, "p7", os.urandom)
            ids += [store(spool, 1) for _ in range(4)]
        new = spool.renew(ids[5])
        ids[5] = new
        assert ["p7-" + name[7:23] for name in sorted(os.listdir(path))] == ids
        for note_id in ids:
            assert spool.confirm(
                note_id, spool.length(note_id), "", {"id": note_id, "sha256": "", "length": spool.length(note_id)}
            )
        assert os.listdir(path) == []


def test_renew_keeps_the_bytes():
    with Folder() as path:
        spool = Spool(path, "p7", counting())
        old = store(spool)
        data = read(spool.path(old))
        new = spool.renew(old)
        assert new != old and spool.first() == new and spool.waiting == 1
        assert read(spool.path(new)) == data and len(os.listdir(path)) == 1


def test_recovery_keeps_whatever_has_sound():
    whole = len(wav.header("p7-00112233445566ff", STAMP, 0, 4)) + 4 * 256
    for length in (whole, whole - 1, whole - 256, whole - 3 * 256):
        with Folder() as path:
            spool = Spool(path, "p7", counting())
            data = leave_behind(path, 4, length)
            said = spool.recover()
            assert (said is None) == (length == whole), said
            assert spool.waiting == 1 and spool.first() == "p7-00112233445566ff"
            assert read(spool.path("p7-00112233445566ff")) == data
            assert spool.recover() is None and Spool(path, "p7", counting()).waiting == 1


def test_recovery_sets_aside_what_has_none_and_deletes_nothing():
    for length in (1, 79, 200):
        with Folder() as path:
            spool = Spool(path, "p7", counting())
            data = leave_behind(path, 4, length)
            assert str(length) in spool.recover()
            assert spool.waiting == 0 and spool.first() is None
            (name,) = os.listdir(path)
            assert name.endswith(".bad") and read(path + "/" + name) == data
            assert spool.recover() is None and store(spool) is not None


def test_recovery_of_an_empty_file():
    with Folder() as path:
        spool = Spool(path, "p7", counting())
        leave_behind(path, 4, 0)
        assert spool.recover() is not None
        assert os.listdir(path) == []


def test_recovery_never_overwrites_a_note():
    with Folder() as path:
        spool = Spool(path, "p7", counting())
        leave_behind(path, 4, 1000)
        spool.recover()
        first = read(spool.path("p7-00112233445566ff"))
        leave_behind(path, 9, 2000)
        spool.recover()
        assert spool.waiting == 2 and read(spool.path("p7-00112233445566ff")) == first


def test_flushes_at_intervals():
    class File:
        def __init__(self):
            self.unflushed = self.most = 0

        def write(self, data):
            self.unflushed += len(data)
            self.most = max(self.most, self.unflushed)

        def flush(self):
            self.unflushed = 0

        def close(self):
            pass

    with Folder() as path:
        spool = Spool(path, "p7", counting())
        writer = spool.writer(spool.new_id())
        writer._file.close()
        writer._file = file = File()
        for _ in range(100):
            writer.write(bytes(4096))
        assert file.most == spool_module.FLUSH_BYTES and file.unflushed < spool_module.FLUSH_BYTES


def test_what_was_not_stored_whole_is_no_note():
    """A flash that is full at a write or at the last flush, and one that loses bytes without a word."""

    class Faulty:
        def __init__(self, file, room, fails):
            self.file, self.room, self.fails = file, room, fails

        def write(self, data):
            if self.room >= len(data):
                self.room -= len(data)
                self.file.write(data)
            elif self.fails == "write":
                raise OSError(28)

        def flush(self):
            self.file.flush()

        def close(self):
            self.file.close()
            if self.fails:
                raise OSError(28)

    for room, fails in (
        (5 * 256, "write"),
        (50, "write"),
        (99999, "close"),
        (5 * 256, "close"),
        (5 * 256, ""),
        (0, ""),
    ):
        with Folder() as path:
            spool = Spool(path, "p7", counting())
            writer = spool.writer(spool.new_id())
            writer._file = Faulty(writer._file, room, fails)
            failed = False
            try:
                writer.write(wav.header(writer.note_id, STAMP, 0, 9))
                for _ in range(9):
                    writer.write(BLOCK)
                writer.finish()
            except OSError:
                failed = True
                writer.abandon()
            assert failed and spool.waiting == 0 and spool.first() is None, (room, fails)
            note_id = store(spool, 9)  # once more
            assert os.listdir(path) == ["000000-" + note_id[-16:] + ".wav"] and spool.waiting == 1
            assert read(spool.path(note_id)) == wav.header(note_id, STAMP, 0, 9) + BLOCK * 9


def test_other_files_are_left_alone():
    with Folder() as path:
        spool = Spool(path, "p7", counting())
        for name in ("0101010101010101.bad", "readme.txt", "x.wav", "0123456-0123456789abcdef.wa"):
            with open(path + "/" + name, "wb") as file:
                file.write(b"x")
        assert Spool(path, "p7", counting()).waiting == 0 and spool.first() is None and spool.free_bytes() >= 0


def test_many_notes_are_known_in_small_pieces():
    """In a heap that was long in use no large one is to be had."""
    with Folder() as path:
        spool = Spool(path, "p7", os.urandom)
        ids = [store(spool, 1) for _ in range(100)]
        again = Spool(path, "p7", os.urandom)
        assert sorted(all_of(again)) == sorted(ids) and all_of(spool) == ids and again.waiting == 100
        assert max(len(piece) for piece in again._pieces) <= 384
        for gone in [31, 32, 0, 99] + list(range(40, 80)):
            length = again.length(ids[gone])
            assert again.confirm(ids[gone], length, "", {"id": ids[gone], "sha256": "", "length": length})
            ids[gone] = None
        ids[33] = again.renew(ids[33])
        assert sorted(all_of(again)) == sorted(note_id for note_id in ids if note_id) and again.waiting == 56


def test_a_listing_that_ran_out_of_memory_finds_all_in_the_end():
    class Tight(Spool):
        left = 20

        def _know(self, order, random_part):
            Tight.left -= 1
            if Tight.left in (15, 10, 0):
                raise MemoryError
            Spool._know(self, order, random_part)

    with Folder() as path:
        spool = Spool(path, "p7", counting())
        ids = [store(spool, 1) for _ in range(12)]
        spool = Tight(path, "p7", counting())
        failed = 0
        for _ in range(50):
            try:
                if spool.load(5):
                    break
            except MemoryError:
                failed += 1
            assert spool.may_wait()
        assert failed == 3 and sorted(all_of(spool)) == sorted(ids)
        for note_id in ids:
            os.remove(spool.path(note_id))
            spool._forget(*spool._find(note_id))
        assert not spool.may_wait() and spool.first() is None


def test_a_note_that_is_confirmed_is_gone_whatever_memory_is_left():
    class Tight(Spool):
        def _forget(self, piece, at):
            raise MemoryError

    with Folder() as path:
        spool = Tight(path, "p7", counting())
        gone, stays = store(spool), store(spool)
        length = spool.length(gone)
        assert spool.confirm(gone, length, "", {"id": gone, "length": length, "sha256": ""})
        assert spool.first() == stays and spool.waiting == 1


def test_a_note_with_a_new_id_is_found_whatever_memory_is_left():
    class Tight(Spool):
        left = 99

        def _find(self, note_id):
            Tight.left -= 1
            if Tight.left == 0:
                raise MemoryError
            return Spool._find(self, note_id)

    with Folder() as path:
        spool = Tight(path, "p7", os.urandom)
        note_id = store(spool)
        data = read(spool.path(note_id))
        Tight.left = 2  # after the rename
        new_id = spool.renew(note_id)
        assert new_id != note_id and spool.first() == new_id and read(spool.path(new_id)) == data


def test_a_note_is_stored_once_whatever_memory_is_left():
    """Its place in the list needs some: if there is none, it has not become a note."""

    class Tight(Spool):
        tight = True

        def _know(self, order, random_part):
            if self.tight:
                raise MemoryError
            Spool._know(self, order, random_part)

    with Folder() as path:
        spool = Tight(path, "p7", counting())
        for _ in range(2):
            try:
                store(spool)
            except MemoryError:
                continue
            raise AssertionError("it was stored")
        assert os.listdir(path) == ["storing"]
        spool.tight = False
        note_id = store(spool)
        assert os.listdir(path) == ["000000-" + note_id[-16:] + ".wav"] and spool.waiting == 1


def test_what_could_not_be_renamed_is_not_in_the_list():
    with Folder() as path:
        spool = Spool(path, "p7", counting())
        first = store(spool)
        writer = spool.writer(spool.new_id())
        writer.write(wav.header(writer.note_id, STAMP, 0, 1) + BLOCK)
        finish, spool._file = spool._keep, lambda name: path + ("/none/" if name == "storing" else "/") + name
        writer._file.close()
        try:
            finish(writer.note_id)
        except OSError:
            del spool._file
            assert spool.waiting == 1 and spool.first() == first
            second = store(spool)
            assert spool.first(first) == second and spool.path(second)[-27:-20] == "000001-"
            return
        raise AssertionError("it was renamed")
