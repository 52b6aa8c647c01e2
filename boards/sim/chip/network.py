"""`network.WLAN` as a station. The host says which networks are in the air and when they go away."""

from .clock import clock

STA_IF = 0
AP_IF = 1
STAT_IDLE = 1000
STAT_CONNECTING = 1001
STAT_GOT_IP = 1010
STAT_NO_AP_FOUND = 201
STAT_WRONG_PASSWORD = 202

air = {}  # ssid -> password
in_range = [True]
link_lost = []  # called when a connection ends
_hostname = ["mpy-esp32"]


def hostname(name=None):
    if name is None:
        return _hostname[0]
    _hostname[0] = name
    return None


def country(code=None):
    return "XX" if code is None else None


class WLAN:
    IF_STA = STA_IF
    IF_AP = AP_IF
    PM_NONE = 0
    PM_PERFORMANCE = 1
    PM_POWERSAVE = 2

    _only = None

    def __new__(cls, interface=STA_IF):
        if interface != STA_IF:
            raise OSError("the simulated radio is a station only")
        if WLAN._only is None:
            WLAN._only = super().__new__(cls)
            WLAN._only._start()
        return WLAN._only

    def _start(self):
        self._active = False
        self._wanted = None  # (ssid, password): the chip goes on trying it for ever
        self._status = STAT_IDLE
        self._event = None

    def active(self, on=None):
        if on is None:
            return self._active
        self._active = bool(on)
        if not on:
            self.disconnect()
        return None

    def connect(self, ssid=None, key=None, *, bssid=None):
        if not self._active:
            raise OSError("Wifi Internal State Error")
        if ssid is not None:
            self._wanted = (ssid, key)
        self._status = STAT_CONNECTING
        self._try()

    def _try(self):
        if self._event:
            self._event[2] = None
        self._event = clock.at(clock.now() + clock.costs["wifi_connect_us"], self._result)

    def _result(self):
        self._event = None
        if self._wanted is None:
            return
        ssid, key = self._wanted
        if not in_range[0] or ssid not in air:
            self._status = STAT_NO_AP_FOUND
            self._try()
        elif air[ssid] != (key or ""):
            self._status = STAT_WRONG_PASSWORD
            self._try()
        else:
            self._status = STAT_GOT_IP

    def disconnect(self):
        self._wanted = None
        if self._event:
            self._event[2] = None
        self._lose(STAT_IDLE)

    def _lose(self, status):
        was = self._status
        self._status = status
        if was == STAT_GOT_IP:
            for action in link_lost:
                action()

    def isconnected(self):
        clock.now()
        return self._status == STAT_GOT_IP

    def status(self, what=None):
        clock.now()
        return -55 if what == "rssi" else self._status

    def scan(self):
        """[(ssid, bssid, channel, RSSI, security, hidden)]. It blocks, but lets other threads run, as on the chip."""
        if not self._active:
            raise OSError("Wifi Internal State Error")
        clock.wait(clock.costs["wifi_scan_us"])
        found = sorted(air) if in_range[0] else []
        return [
            (ssid.encode(), b"\x02OFFB2", 6, -55 - 5 * place, 3 if air[ssid] else 0, False)
            for place, ssid in enumerate(found)
        ]

    def ifconfig(self, settings=None):
        address = "192.0.2.2" if self.isconnected() else "0.0.0.0"
        return (address, "255.255.255.0", "192.0.2.1", "192.0.2.1")

    def ipconfig(self, what):
        return (self.ifconfig()[0], self.ifconfig()[1])

    def config(self, what=None, **settings):
        if what == "mac":
            return b"\x02OFFB1"
        return None


def set_in_range(present):
    """The host takes the networks away, or brings them back; the chip reconnects by itself."""
    in_range[0] = present
    station = WLAN._only
    if station is None:
        return
    if not present:
        station._lose(STAT_NO_AP_FOUND)
    if station._wanted:
        station._try()


def online():
    return WLAN._only is not None and WLAN._only._status == STAT_GOT_IP
