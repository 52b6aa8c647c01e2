"""Power-on of the simulated chip, under MicroPython's unix port: `micropython boot.py COMMANDS REPORTS`.

Started by sim/board.py; the arguments are two file descriptors, the line to the host program. The first message on it
describes the board; then the shadowing modules take their names, the file system is mounted as the ESP32 port does, and
main.py runs: the repository's firmware/main.py, or the one on the board's file system. With a console (its input is the
standard input) there is a prompt when main.py has ended; else that ends the board.
"""

import errno
import os
import sys

import usocket  # noqa: F401  the host's, before the simulated one takes the name

_commands = open("/dev/fd/" + sys.argv[1], "rb", 0)
_reports = open("/dev/fd/" + sys.argv[2], "w")
_here = sys.argv[0].rsplit("/", 2)[0]
sys.path.insert(0, _here)

import tls as _host_tls  # noqa: F401
import vfs
from chip import _thread, chargedgc, esp32, flash, hostos, hosttime, loop, machine, network, repl, socket, tls
from chip.clock import clock as _clock
from chip.control import Control

_posix = vfs.VfsPosix()  # with a root of its own its rename() would confuse the two paths


class _NvsFile:
    def __init__(self, path):
        self._path = path

    def read(self):
        try:
            with _posix.open(self._path, "r") as file:
                return file.read()
        except OSError:
            return ""

    def write(self, text):
        with _posix.open(self._path + ".new", "w") as file:
            file.write(text)
        _posix.rename(self._path + ".new", self._path)


def _touch(command):
    machine.touch(command["touch"], command["level"])


def _speak(command):
    if command["speak"] is None:
        machine.I2S.sound = None
    else:
        file = _posix.open(command["speak"], "rb")
        machine.I2S.sound = (file, _clock.chip_us(command["since"]), command["frames"])


def _wifi(command):
    network.set_in_range(command["wifi"])


def _names(command):
    socket.names_found = command["names"]


def _time_server(command):
    socket.set_time_server(command["ntp"], command)


def _adc(command):
    machine.ADC.millivolts[command["adc"]] = command["mv"]


def _power_on(setup):
    _clock.jump = setup["mode"] == "jump"
    _clock.crystal_ppm = setup["crystal_ppm"]
    _clock.now_us = _clock.granted_us = _clock.chip_us(setup["now_us"])
    _clock.host_epoch_ns = setup["host_epoch_ns"]
    _clock.costs = setup["costs"]
    _clock.seed = _clock._random = setup["seed"]
    _clock.now()
    _clock.boot_us = _clock.now_us
    control = _clock.control = Control(_commands, _reports)
    control.on["touch"] = _touch
    control.on["speak"] = _speak
    control.on["wifi"] = _wifi
    control.on["adc"] = _adc
    control.on["names"] = _names
    control.on["ntp"] = _time_server
    control.on["interrupt"] = lambda command: None  # nobody listens yet
    machine._cause[:] = setup["cause"]
    hosttime.rtc.offset_us = setup["rtc_offset_us"] if setup["rtc_offset_us"] is not None else -_clock.now_us
    hosttime.rtc.memory = bytes.fromhex(setup["rtc_memory"])
    _speak(setup["sound"])
    machine.I2S.power_pin = setup["microphone_power"]
    machine.I2S.powered_us = None if setup["microphone_power"] is not None else _clock.now_us
    for pin, level in setup["levels"]:
        machine.Pin.outside[pin] = level
    for pin, millivolts in setup["adc"]:
        machine.ADC.millivolts[pin] = millivolts
    network.air.update(setup["air"])
    network.in_range[0] = setup["in_range"]
    socket.start_utc_us = setup["start_utc_us"]
    socket.names_found = setup["names_found"]
    for command in setup["time_servers"]:
        _time_server(command)
    chip_flash = flash.Flash(open(setup["flash"], "r+b", 0))
    flash.Partition.flash = machine.I2S.flash = chip_flash
    flash.Partition.table = [tuple(row) for row in setup["partitions"]]
    esp32.NVS.file = _NvsFile(setup["nvs"])
    for name, module in (
        ("os", hostos),
        ("time", hosttime),
        ("machine", machine),
        ("esp32", esp32),
        ("network", network),
        ("socket", socket),
        ("tls", tls),
        ("gc", chargedgc),
        ("_thread", _thread),
    ):
        sys.modules[name] = module
    sys.modules.pop("usocket", None)
    loop.install()
    if setup["watchdog"]:
        machine.WDT.go_on(*setup["watchdog"])


def _mount(setup):
    """Mount the file system as the ESP32 port does, with what a cable would have put on it before: at no cost."""
    costs = _clock.costs
    _clock.costs = {name: 0 for name in costs}
    partition = flash.FileSystemPartition("vfs")
    vfs.umount("/")
    try:
        file_system = vfs.VfsLfs2(partition)
    except OSError:  # blank
        vfs.VfsLfs2.mkfs(partition)
        file_system = vfs.VfsLfs2(partition)
    vfs.mount(file_system, "/")
    sys.path[:] = ["", ".frozen", "/lib"]
    if setup["firmware"]:
        vfs.mount(vfs.VfsPosix(setup["firmware"]), "/firmware")
        sys.path.append("/firmware")
    for path, source_path in setup["install"].items():
        _make_folders(path)
        with _posix.open(source_path, "rb") as source, open(path, "wb") as target:
            target.write(source.read())
    _clock.costs = costs


def _make_folders(path):
    at = path.find("/", 1)
    while at > 0:
        try:
            os.mkdir(path[:at])
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        at = path.find("/", at + 1)


def _main():
    """main.py as the ESP32 port runs it: from the file system's root, as `__main__`."""
    path = "/firmware/main.py" if "/firmware" in sys.path else "/main.py"
    with open(path) as file:
        code = compile(file.read(), path, "exec")
    exec(code, {"__name__": "__main__"})


def _run():
    import json

    setup = json.loads(_commands.readline())
    _power_on(setup)
    _clock.spend(_clock.costs["boot_us"])
    _mount(setup)
    if setup["console"]:
        console = repl.Console(_commands, setup["console"])
        raw = console.serve(setup["raw"])
        print("MPY: soft reboot")
        _clock.control.leave("reset", cause=machine.SOFT_RESET, raw=raw, watchdog=machine.WDT.running())
    try:
        _main()
        why = "main.py ended"
    except SystemExit:
        why = "main.py ended with SystemExit"
    except BaseException as error:
        sys.print_exception(error)
        why = "main.py ended with " + repr(error)
    _clock.control.leave("repl", why=why)


_run()
