"""The line to the host program: JSON, one object a line, commands in and reports out.

All times are true ones.
Commands: {"run": until_us} grants time (jump mode); {"touch": pin, "level": 0|1}; {"speak": path or null};
{"wifi": bool};
{"adc": n, "mv": n}; {"ntp": name, ...}: how a time server behaves; {"names": bool}: whether names are found;
{"hangs": bool}: a real server is known not to answer, so jump to the time-out.
Reports: {"paused": t_us}; {"pin": n, "level": l, "t": t_us}; {"exit": why, ...}.
"""

import json
import select

from .clock import clock


class Control:
    def __init__(self, commands, reports):
        self._commands = commands
        self._reports = reports
        self._poller = select.poll()
        self._poller.register(commands, select.POLLIN)
        self.on = {}  # key of a command -> what does it
        self.server_hangs = False
        self.on["hangs"] = self._hangs

    def _hangs(self, command):
        self.server_hangs = command["hangs"]

    def report(self, message):
        self._reports.write(json.dumps(message) + "\n")

    def read(self):
        """Wait for the next command of the host. The host ends this process when it has no more."""
        line = self._commands.readline()
        if not line:
            raise SystemExit
        return json.loads(line)

    def _obey(self, command):
        for key, action in self.on.items():
            if key in command:
                action(command)
                return
        raise ValueError("simulator: no such command: " + repr(command))

    def poll(self, timeout_ms):
        """Real mode: obey what the host has sent, waiting for it at most timeout_ms."""
        while self._poller.poll(timeout_ms):
            self._obey(self.read())
            timeout_ms = 0

    def pause(self):
        """Jump mode: say that the granted time is over, and obey until more is granted."""
        self.report({"paused": clock.true_us()})
        while True:
            command = self.read()
            if "run" in command:
                clock.granted_us = clock.chip_us(command["run"])
                return
            self._obey(command)

    def leave(self, kind, **details):
        """The chip resets or falls asleep: nothing of this run goes on. The host ends the process."""
        details["exit"] = kind
        details["t"] = clock.true_us()
        self.report(details)
        while True:
            self.read()
