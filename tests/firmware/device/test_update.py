"""An update from the offer to the confirmation, and back, over a real folder: device/update.py and main.py together."""

import asyncio
import hashlib
import json
import os
from binascii import hexlify

import main
from device import update
from device.hmac import hmac_sha256
from device.update import Update, UpdateError, read_manifest

TOKEN = "t" * 43
MPY = 774


def sha256(data):
    return hexlify(hashlib.sha256(data).digest()).decode()


class Root:
    """A temporary folder for the root of a board's file system; removed with all that is in it."""

    def __init__(self):
        self.path = "/tmp/update-" + hexlify(os.urandom(8)).decode()

    def __enter__(self):
        os.mkdir(self.path)
        return self.path

    def __exit__(self, *_):
        asyncio.run(update.remove_others(self.path, ()))
        os.rmdir(self.path)


class Server:
    """Answers as docs/protocol.md has it. `files`: path -> content; what is asked for is written down."""

    def __init__(self, version, files, changes=()):
        self.asked = []
        self.version = version
        self.contents = {sha256(data): data for data in files.values()}
        manifest = {"version": version, "app": "pendant", "mpy": MPY}
        manifest["files"] = [[path, len(files[path]), sha256(files[path])] for path in sorted(files)]
        manifest.update(changes)
        self.manifest = json.dumps(manifest).encode()
        self.code = hexlify(hmac_sha256(hashlib.sha256(TOKEN.encode()).digest(), self.manifest)).decode()
        self.fails_after = None  # so many requests

    async def fetch(self, path, sink, most_bytes):
        self.asked.append(path)
        if self.fails_after is not None and len(self.asked) > self.fails_after:
            raise OSError("closed by the server")
        start = "/api/device/updates/" + self.version
        if path == start:
            body, headers = self.manifest, {"offbeat-hmac": self.code}
        elif path.startswith(start + "/"):
            body, headers = self.contents.get(path[len(start) + 1 :]), {}
        else:
            body = None
        if body is None:
            return 404, {}
        if len(body) > most_bytes:
            raise OSError("answer refused: too long")
        for at in range(0, len(body), 100):
            sink(memoryview(body)[at : at + 100])
            await asyncio.sleep(0)
        return 200, headers


FILES = {
    "device/link.mpy": b"link" * 300,
    "device/config.py": b"",
    "pendant/app.mpy": b"app" * 1000,
    "clock/modes/steady.mpy": b"s",
}


def make(root, server, version="1"):
    return Update(root, server and server.fetch, TOKEN, "pendant", MPY, version)


def take(root, server, version="1"):
    return asyncio.run(make(root, server, version).take(server.version))


def refusal(root, server, version="1"):
    try:
        take(root, server, version)
    except UpdateError as error:
        return str(error)
    raise AssertionError("taken")


def tree(folder, below=""):
    """path -> content of all files below a folder; folders end in a slash."""
    found = {}
    for name in os.listdir(folder):
        path = folder + "/" + name
        if os.stat(path)[0] & 0x4000:
            found[below + name + "/"] = None
            found.update(tree(path, below + name + "/"))
        else:
            with open(path, "rb") as file:
                found[below + name] = file.read()
    return found


def files_in(folder):
    return {path: data for path, data in tree(folder).items() if data is not None}


def test_an_update_is_taken_tried_and_confirmed():
    with Root() as root:
        assert main.choose(root, False) == ("", False)
        assert take(root, Server("2", FILES))
        assert files_in(root + "/a") == FILES
        assert not make(root, None).in_trial()  # the old version still runs
        assert main.choose(root, False) == ("a", True)
        new = make(root, None, "2")
        assert new.in_trial()
        new.confirmed()
        assert not new.in_trial() and new.failed_version() is None
        assert main.choose(root, False) == ("a", False)
        assert not main.give_up(root)

        # The next one goes to the other folder, and the one after it back to the first, where nothing old stays.
        assert take(root, Server("3", {"x.mpy": b"3"}), "2")
        assert main.choose(root, False) == ("b", True)
        make(root, None, "3").confirmed()
        server = Server("4", {"device/link.mpy": FILES["device/link.mpy"], "clock/y.mpy": b"y"})
        assert take(root, server, "3")
        assert set(tree(root + "/a")) == {"device/", "device/link.mpy", "clock/", "clock/y.mpy"}
        assert len(server.asked) == 2  # device/link.mpy was there
        assert main.choose(root, False) == ("a", True)


def test_confirming_outside_of_a_trial_changes_nothing():
    with Root() as root:
        make(root, None).confirmed()
        assert os.listdir(root) == []
        take(root, Server("2", FILES))
        before = files_in(root)
        make(root, None).confirmed()  # the old version, before the restart
        assert files_in(root) == before


def begin_trial(root):
    take(root, Server("2", FILES))
    assert main.choose(root, False) == ("a", True)


def check_rolled_back(root):
    assert main.choose(root, False) == ("", False)
    old = make(root, Server("2", FILES))
    assert old.failed_version() == "2" and not old.in_trial()
    assert not asyncio.run(old.take("2"))  # it is not tried again
    old.confirmed()
    assert make(root, None).failed_version() == "2"
    assert take(root, Server("3", FILES))  # but another one is
    assert main.choose(root, False) == ("a", True)
    make(root, None, "3").confirmed()
    assert make(root, None, "3").failed_version() is None
    assert main.choose(root, False) == ("a", False)


def test_a_trial_that_ends_by_an_exception_or_the_time_limit_goes_back():
    with Root() as root:
        begin_trial(root)
        assert main.give_up(root)
        check_rolled_back(root)


def test_a_trial_that_ends_by_the_watchdog_goes_back():
    with Root() as root:
        begin_trial(root)
        assert main.choose(root, True) == ("", False)
        check_rolled_back(root)


def test_a_watchdog_before_the_trial_is_not_its_fault():
    with Root() as root:
        take(root, Server("2", FILES))
        assert main.choose(root, True) == ("a", True)


def test_cuts_of_power_are_forgiven_twice():
    with Root() as root:
        begin_trial(root)
        for _ in range(main.TRIES - 1):
            assert main.choose(root, False) == ("a", True)
        assert main.choose(root, False) == ("", False)
        check_rolled_back(root)


def test_a_trial_that_cannot_be_counted_is_not_begun():
    with Root() as root:
        take(root, Server("2", FILES))
        os.mkdir(root + "/active.new")  # so that it cannot be written
        assert main.choose(root, False) == ("", False)
        os.rmdir(root + "/active.new")
        assert main.choose(root, False) == ("a", True)


def test_a_version_of_another_name_than_the_manifests_cannot_confirm_itself():
    with Root() as root:
        begin_trial(root)
        liar = make(root, None, "2.1")
        assert not liar.in_trial()
        liar.confirmed()
        assert main.give_up(root)


def test_what_is_not_authentic_is_refused_and_nothing_is_written():
    good = Server("2", FILES)
    for code in ("", "00" * 32, good.code[:-1], good.code[:62], good.code.replace(good.code[7], "x")):
        with Root() as root:
            server = Server("2", FILES)
            server.code = code
            assert "HMAC" in refusal(root, server)
            assert os.listdir(root) == [] and len(server.asked) == 1
    with Root() as root:
        server = Server("2", FILES)
        server.manifest = server.manifest.replace(b"link.mpy", b"lynk.mpy")
        assert "HMAC" in refusal(root, server)
        assert os.listdir(root) == []
    with Root() as root:
        other = Update(root, good.fetch, "u" * 43, "pendant", MPY, "1")  # another device's
        try:
            asyncio.run(other.take("2"))
        except UpdateError as error:
            assert "HMAC" in str(error)
        else:
            raise AssertionError("taken")


def test_manifests_for_others_or_out_of_shape_are_refused_and_nothing_is_written():
    line = ["x.mpy", 1, "0" * 64]
    changes = [{"app": "clock"}, {"mpy": 6}, {"version": "3"}, {"files": []}, {"files": [line, line]}, {"files": 5},
               {"files": [["x.mpy", 1]]}, {"files": [[7, 1, "0" * 64]]},
               {"files": [["x.mpy", -1, "0" * 64]]}, {"files": [["x.mpy", 262145, "0" * 64]]},
               {"files": [["x.mpy", "1", "0" * 64]]}, {"files": [["x.mpy", 1, "0" * 63]]},
               {"files": [["x.mpy", 1, "G" * 64]]}, {"files": [["x.mpy", 1, 5]]}]  # fmt: skip
    for path in ("main.py", "main.mpy", "../x.py", "/x.py", "a/../x.py", "a//x.py", "./x.py", "a/.x.py", "x.txt", "x",
                 "", "a\\x.py", "a/b/c/d/e.py", "x.py/", "\u00e4.py", "x y.py", "x" * 100 + ".py"):  # fmt: skip
        changes.append({"files": [[path, 1, "0" * 64]]})
    for change in changes:
        with Root() as root:
            assert "refused" in refusal(root, Server("2", FILES, change)), change
            assert os.listdir(root) == [], change
    for body in (b"", b"{}", b"[]", b"5", b'{"version": "2"'):
        try:
            read_manifest(body, "2", "pendant", MPY)
        except UpdateError:
            continue
        raise AssertionError(body)


def test_a_version_with_an_impossible_name_is_not_asked_for():
    for version in ("", "../2", "2/3", "2 3", "2?", "x" * 65, "2\r\nX: 1"):
        with Root() as root:
            server = Server(version, FILES)
            assert "name" in refusal(root, server)
            assert server.asked == []


def test_a_file_that_is_not_what_the_manifest_says_ends_it():
    for content in (b"", b"app", b"App" * 1000):
        with Root() as root:
            server = Server("2", FILES)
            server.contents[sha256(FILES["pendant/app.mpy"])] = content
            assert "pendant/app.mpy" in refusal(root, server)
            assert main.choose(root, False) == ("", False)
            assert take(root, Server("2", FILES))  # the next time it is well


def test_an_answer_other_than_200_ends_it():
    with Root() as root:
        server = Server("2", FILES)
        server.version = "3"
        try:
            asyncio.run(make(root, server).take("2"))
        except UpdateError as error:
            assert "404" in str(error)
        else:
            raise AssertionError("taken")
    with Root() as root:
        server = Server("2", FILES)
        del server.contents[sha256(FILES["pendant/app.mpy"])]
        assert "404" in refusal(root, server)
        assert main.choose(root, False) == ("", False)


def test_what_was_fetched_whole_is_not_fetched_again():
    with Root() as root:
        server = Server("2", FILES)
        server.fails_after = 3  # the manifest and two files
        try:
            take(root, server)
        except OSError:
            assert main.choose(root, False) == ("", False)
        else:
            raise AssertionError("taken")
        server.fails_after, server.asked = None, []
        assert take(root, server)
        assert len(server.asked) == 1 + 2
        assert files_in(root + "/a") == FILES


def test_a_cancelled_download_leaves_the_old_version():
    async def press_in_between(updating, server):
        task = asyncio.create_task(updating.take("2"))
        while len(server.asked) < 3:
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        raise AssertionError("it came to its end")

    with Root() as root:
        server = Server("2", FILES)
        updating = make(root, server)
        asyncio.run(press_in_between(updating, server))
        assert main.choose(root, False) == ("", False)
        assert asyncio.run(updating.take("2"))
        assert files_in(root + "/a") == FILES


def test_an_update_that_waits_for_the_restart():
    with Root() as root:
        server = Server("2", FILES)
        updating = make(root, server)
        assert asyncio.run(updating.take("2"))
        asked = len(server.asked)
        assert asyncio.run(updating.take("2")) and len(server.asked) == asked  # offered again meanwhile
        # Another one is offered: from the first change in the folder on, what is there is not to be tried.
        other = Server("3", {"device/link.mpy": b"3"})
        other.fails_after = 1
        updating = make(root, other)
        try:
            asyncio.run(updating.take("3"))
        except OSError:
            assert main.choose(root, False) == ("", False)
        else:
            raise AssertionError("taken")
        other.fails_after = None
        assert asyncio.run(updating.take("3"))
        assert files_in(root + "/a") == {"device/link.mpy": b"3"}
        assert main.choose(root, False) == ("a", True)


def test_the_running_version_is_not_taken():
    with Root() as root:
        server = Server("1", FILES)
        assert not take(root, server)
        assert server.asked == []
        take(root, Server("2", FILES))
        main.choose(root, False)
        assert not take(root, Server("3", FILES), "2")  # nor anything during a trial


def test_files_in_the_way_of_folders_and_folders_in_the_way_of_files():
    with Root() as root:
        with open(root + "/a", "w"):
            pass
        assert take(root, Server("2", FILES))
        main.choose(root, False)
        make(root, None, "2").confirmed()
        os.mkdir(root + "/b")
        os.mkdir(root + "/b/x.py")
        os.mkdir(root + "/b/x.py/empty")
        with open(root + "/b/y", "w"):
            pass
        files = {"x.py": b"x", "y/z.py": b"z"}
        assert take(root, Server("3", files), "2")
        assert files_in(root + "/b") == files


def test_too_little_room_is_said_before_anything_is_fetched():
    os_of_update = update.os

    class Full:
        """A file system of 4 kB blocks with `free` of them free."""

        free = 0

        def __getattr__(self, name):
            return getattr(os_of_update, name)

        def statvfs(self, _):
            return (4096, 4096, 100, self.free, self.free, 0, 0, 0, 0, 255)

    update.os = Full()
    try:
        with Root() as root:
            # Four files of one block, four folders of two, and four to spare.
            Full.free = 15
            server = Server("2", FILES)
            assert "no room" in refusal(root, server) and len(server.asked) == 1
            Full.free = 16
            assert take(root, server)
            main.choose(root, False)
            make(root, None, "2").confirmed()
    finally:
        update.os = os_of_update


def test_an_unreadable_state_counts_as_none():
    for content in (b"", b"[]", b"{", b"\xff\x00"):
        with Root() as root:
            with open(root + "/active", "wb") as file:
                file.write(content)
            assert main.choose(root, False) == ("", False)
            assert take(root, Server("2", FILES))
            assert main.choose(root, False) == ("a", True)


def test_files_are_removed_one_at_a_time():
    """Each takes the flash tens of milliseconds, and a press may come."""
    with Root() as root:
        for number in range(20):
            with open(root + "/%d.py" % number, "w") as file:
                file.write("x")
        seen = []

        async def watch():
            while True:
                seen.append(len(os.listdir(root)))
                await asyncio.sleep(0)

        async def remove():
            watching = asyncio.create_task(watch())
            await update.remove_others(root, ())
            watching.cancel()

        asyncio.run(remove())
        assert os.listdir(root) == []
        assert max(before - after for before, after in zip([20] + seen, seen)) <= 1, seen
