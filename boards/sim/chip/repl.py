"""The serial console of the simulated board: what MicroPython's shared/runtime/pyexec.c and the ESP32 port's main.c do.

The console's input is a pipe that the host fills; a Ctrl-C that is to interrupt comes as a command instead, for on the
chip an interrupt handler sees it. The output is the process's own. The host turns its "\n" into "\r\n", as the chip's
`print` does; what must arrive as it is (`sys.stdout.buffer`) has ESCAPE before each byte that would be changed. ESCAPE
before another byte tells the host something, in order with the output.
"""

import io
import select
import sys as _sys
from collections import namedtuple

import micropython as _micropython

from . import machine
from .clock import clock

CTRL_A, CTRL_B, CTRL_C, CTRL_D, CTRL_E = 1, 2, 3, 4, 5
RAW_BANNER = b"raw REPL; CTRL-B to exit\r\n"
WINDOW_BYTES = 128  # half of pyexec.c's buffer
ESCAPE = b"\xff"  # in no UTF-8 text
UNINTERRUPTED, INTERRUPTED, INTERRUPTIBLE, RAW, FRIENDLY = b"\x00", b"\x01", b"\x03", b"\x04", b"\x05"  # after it
_POLL = 3  # MP_STREAM_POLL

interrupt_char = [-1]  # as `micropython.kbd_intr` and the running of a program set it


class Input(io.IOBase):
    """What came over the line, as `sys.stdin` and its `buffer`."""

    def __init__(self, pipe):
        self._pipe = pipe  # the host has made it not to block
        self._piece = memoryview(bytearray(512))
        self._at = self._end = 0
        self._poller = select.poll()
        self._poller.register(pipe, select.POLLIN)

    def listen(self, commands):
        """Also wake up when the host has a command."""
        self._poller.register(commands, select.POLLIN)

    def put(self, byte):
        """Before what has not been read yet."""
        rest = bytes(self._piece[self._at : self._end])
        self._piece = memoryview(bytearray(bytes([byte]) + rest + bytes(512)))
        self._at, self._end = 0, len(rest) + 1

    def any(self):
        if self._at == self._end:
            self._at, self._end = 0, self._pipe.readinto(self._piece) or 0
        return self._at < self._end

    def byte(self):
        """The next byte; waits for it, and lets happen what is due meanwhile."""
        while not self.any():
            clock.deliver()
            next_us = clock.next_event_us()
            wait_ms = 20 if next_us is None else max(0, min(20, (next_us - clock.now()) // 1000))
            self._poller.poll(wait_ms)
            clock.control.poll(0)
            clock.now()
        self._at += 1
        return self._piece[self._at - 1]

    def readinto(self, buffer, length=None):
        count = len(buffer) if length is None else length
        for index in range(count):
            buffer[index] = self.byte()
        return count

    def read(self, length=-1):
        data = bytearray()
        while length < 0 or len(data) < length:
            data.append(self.byte())
        return bytes(data)

    def readline(self):
        data = bytearray()
        while not data or data[-1] not in b"\r\n":
            data.append(self.byte())
        return bytes(data)

    def ioctl(self, request, argument):
        if request == _POLL:
            return argument & select.POLLIN if self.any() else 0
        return -1  # 0 to MP_STREAM_GET_FILENO would be a descriptor, which the poller would ask instead


class _TextInput(io.IOBase):
    def __init__(self, buffer):
        self.buffer = buffer

    def read(self, length=-1):
        return self.buffer.read(length).decode()

    def readline(self):
        return self.buffer.readline().decode()

    def ioctl(self, request, argument):
        return self.buffer.ioctl(request, argument)


class _Output(io.IOBase):
    """`sys.stdout.buffer`: bytes that arrive as they are."""

    def __init__(self, out):
        self._out = out

    def write(self, data, *span):
        """span: none, (length,) or (offset, length)."""
        if span:
            offset, length = span if len(span) == 2 else (0, span[0])
            data = memoryview(data)[offset : offset + length]
        data = bytes(data)
        self._out.write(data.replace(ESCAPE, ESCAPE + ESCAPE).replace(b"\n", ESCAPE + b"\n"))
        return len(data)

    def ioctl(self, request, argument):
        return argument & select.POLLOUT if request == _POLL else -1


class _TextOutput(io.IOBase):
    def __init__(self, out):
        self._out = out
        self.buffer = _Output(out.buffer)

    def write(self, text):
        return self._out.write(text)

    def ioctl(self, request, argument):
        return self.buffer.ioctl(request, argument)


class _Module:
    """A built-in module with some of its names replaced."""

    def __init__(self, module, **replaced):
        for name in dir(module):
            if not name.startswith("__"):
                setattr(self, name, getattr(module, name))
        for name in replaced:
            setattr(self, name, replaced[name])


_Implementation = namedtuple("implementation", ("name", "version", "_machine", "_mpy", "_build"))


def _kbd_intr(char):
    interrupt_char[0] = char
    _tell(INTERRUPTIBLE if char == CTRL_C else UNINTERRUPTED)


def _tell(what):
    _sys.stdout.buffer.write(ESCAPE + what)


def _soft_reset():
    raise SystemExit


class Console:
    """The board's end of the line, from the file system's mounting to the next reset."""

    def __init__(self, commands, name):
        """name: of the board, which it says of itself."""
        self._input = Input(_sys.stdin.buffer)
        self._input.listen(commands)
        self._out = _sys.stdout
        self._name = name
        self._globals = {"__name__": "__main__"}
        machine.soft_reset = _soft_reset
        clock.control.on["interrupt"] = self._interrupt
        real = _sys.implementation
        implementation = _Implementation(real.name, real.version, name, real._mpy, real._build)
        replaced = {"stdin": _TextInput(self._input), "stdout": _TextOutput(_sys.stdout)}
        _sys.modules["sys"] = _Module(_sys, implementation=implementation, platform="esp32", **replaced)
        _sys.modules["micropython"] = _Module(_micropython, kbd_intr=_kbd_intr)
        self._raw_out = replaced["stdout"].buffer
        _kbd_intr(-1)

    def _interrupt(self, _command):
        _tell(INTERRUPTED)
        if interrupt_char[0] == CTRL_C:
            clock.interrupted = True
        else:
            self._input.put(CTRL_C)

    def _say(self, data):
        self._raw_out.write(data)

    def serve(self, raw):
        """Runs boot.py and, unless `raw`, main.py; then the prompts. Returns at a soft reset: whether still raw."""
        _tell(RAW if raw else FRIENDLY)
        if self._run_file("/boot.py"):
            return raw
        if not raw and self._run_file("/main.py"):
            return raw
        while True:
            try:
                ended = self._raw() if raw else self._friendly()
            except KeyboardInterrupt:  # it came when the program had just ended
                continue
            if ended:
                return raw
            raw = not raw
            _tell(RAW if raw else FRIENDLY)

    def _run_file(self, path):
        try:
            with open(path) as file:
                source = file.read()
        except OSError:  # there is none
            return False
        return self._execute(source, path[1:], "exec")

    def _execute(self, source, name, kind, marks=False):
        """True: the program asked for a soft reset. marks: an end mark after what it prints and after its error."""
        error = None
        try:
            code = compile(source, name, kind)
            _kbd_intr(CTRL_C)
            exec(code, self._globals)
            _kbd_intr(-1)
            clock.deliver()
        except BaseException as e:
            error = e
        if interrupt_char[0] != -1:
            _kbd_intr(-1)
        clock.interrupted = False
        if marks:
            self._say(b"\x04")
        forced = isinstance(error, SystemExit)
        if error is not None and not forced:
            text = io.StringIO()
            _sys.print_exception(error, text)
            for line in text.getvalue().split("\n")[:-1]:
                if "/sim/chip/" not in line:  # frames that the chip has not
                    print(line)
        if marks:
            self._say(b"\x04")
        return forced

    # The raw prompt, for programs

    def _raw(self):
        """True: soft reset. False: Ctrl-B, to the friendly prompt."""
        self._say(RAW_BANNER)
        while True:
            self._say(b">")
            line = bytearray()
            while True:
                byte = self._input.byte()
                if byte == CTRL_A:
                    if len(line) == 2 and line[0] == CTRL_E:
                        if self._paste(line[1]):
                            return True
                    else:
                        self._say(RAW_BANNER)
                    break
                if byte == CTRL_B:
                    self._say(b"\r\n")
                    return False
                if byte == CTRL_C:
                    line = bytearray()
                elif byte == CTRL_D:
                    self._say(b"OK")
                    if not line:
                        self._say(b"\r\n")
                        return True
                    if self._execute(bytes(line), "<stdin>", "exec", marks=True):
                        return True
                    break
                else:
                    line.append(byte)

    def _paste(self, command):
        """Raw paste mode: the sender may be two windows ahead. True: soft reset."""
        if command != 65:
            self._say(b"R\x00")
            return False
        self._say(b"R\x01" + bytes([WINDOW_BYTES & 255, WINDOW_BYTES >> 8, 1]))
        source = bytearray()
        left = WINDOW_BYTES
        while True:
            byte = self._input.byte()
            if byte in (CTRL_C, CTRL_D):
                break
            source.append(byte)
            left -= 1
            if not left:
                self._say(b"\x01")
                left = WINDOW_BYTES
        self._say(b"\x04")
        if byte == CTRL_C:
            self._say(b"\x04KeyboardInterrupt: \r\n\x04")
            return False
        return self._execute(bytes(source), "<stdin>", "exec", marks=True)

    # The friendly prompt, for people

    def _banner(self):
        print(_sys.version.split("; ")[-1] + "; " + self._name)
        print('Type "help()" for more information.')

    def _friendly(self):
        """True: soft reset. False: Ctrl-A, to the raw prompt."""
        self._banner()
        source = ""
        while True:
            self._say(b"... " if source else b">>> ")
            line, end = self._line()
            self._say(b"\r\n")
            if end == CTRL_A and not source:
                return False
            if end == CTRL_B and not source:
                self._banner()
            elif end == CTRL_C:
                source = ""
            elif end == CTRL_D and not source:
                return True
            elif end == CTRL_E and not source:
                text = self._pasted()
                if text is not None and self._execute(text, "<stdin>", "exec"):
                    return True
            else:
                source += line + "\n"
                if end != CTRL_D and _goes_on(source):
                    continue
                text, source = source, ""
                if text.strip() and self._execute(text, "<stdin>", "single"):
                    return True

    def _line(self):
        """(a line as typed, the byte that ended it)."""
        line = bytearray()
        escape = 0
        while True:
            byte = self._input.byte()
            if escape:  # of a cursor key, which does nothing here
                escape = 2 if byte == 91 and escape == 1 else 0 if escape == 1 or byte >= 64 else escape
            elif byte == 27:
                escape = 1
            elif byte in (13, 10):
                return line.decode(), 13
            elif byte in (8, 127):
                if line:
                    line = line[:-1]
                    self._say(b"\x08 \x08")
            elif byte == CTRL_C or (byte <= CTRL_E and not line):
                return line.decode(), byte
            elif byte >= 32 or byte == 9:
                line.append(byte)
                self._say(bytes([byte]))

    def _pasted(self):
        """What is typed or pasted up to Ctrl-D; None after Ctrl-C."""
        self._say(b"paste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== ")
        text = bytearray()
        while True:
            byte = self._input.byte()
            if byte in (CTRL_C, CTRL_D):
                self._say(b"\r\n")
                return text.decode() if byte == CTRL_D else None
            text.append(10 if byte == 13 else byte)
            self._say(b"\r\n=== " if byte == 13 else bytes([byte]))


def _goes_on(source):
    """Whether a statement is not complete: a block without its empty line, or an open bracket."""
    lines = source.split("\n")
    if sum(source.count(c) for c in "([{") > sum(source.count(c) for c in ")]}"):
        return True
    return (lines[0].rstrip().endswith(":") or lines[0].startswith("@")) and lines[-2].strip() != ""
