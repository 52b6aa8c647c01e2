"""Reading and checking what the owner wrote (`config.json`) and what the board is (`board.json`).

A wrong file ends the start with an error that names the key and the value (a secret's length instead of the secret).
"""

import json

VERSION = "0.1.0"  # of the firmware, reported with each check-in

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_TOKEN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + _LETTERS + "0123456789-_"


class ConfigError(ValueError):
    pass


def load(path: str, kept: str = "") -> dict:
    """The checked configuration of `path`. A missing, wrong or unknown key raises ConfigError.

    kept: the file of device.twin, whose settings go over it; those that are not right are left out.
    """
    config = check(_read(path))
    try:
        with open(kept) as file:
            settings = dict(json.load(file)["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return config  # nothing is desired yet; or it is damaged: the twin says so, and is sent all of it once more
    for key in settings:
        try:
            config.update(check_some({key: settings[key]}))
        except ConfigError as e:
            print(kept, e)
    return config


def load_board(path: str) -> dict:
    """The checked description of the board."""
    return check_board(_read(path))


def _read(path):
    try:
        with open(path) as file:
            value = json.load(file)
    except OSError as e:
        raise ConfigError("%s cannot be read (%s): copy it to the board" % (path, e))
    except ValueError as e:
        raise ConfigError("%s is not JSON: %s" % (path, e))
    if not isinstance(value, dict):
        raise ConfigError("%s must be a JSON object" % path)
    return value


def _refuse(key, value, wanted):
    raise ConfigError("%s is %s, but must be %s" % (key, repr(value)[:80], wanted))


def _text(key, value, wanted="a text of 1 to 63 characters"):
    if not isinstance(value, str) or not 1 <= len(value) <= 63:
        _refuse(key, value, wanted)


def _integer(key, value, least, most):
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        _refuse(key, value, "an integer from %d to %d" % (least, most))


def _app(key, value):
    if value not in ("pendant", "clock"):
        _refuse(key, value, '"pendant" or "clock"')


def _device(key, value):
    allowed = _LETTERS + "0123456789"
    good = isinstance(value, str) and 1 <= len(value) <= 32 and value[0] in _LETTERS
    if not good or not all(c in allowed for c in value):
        _refuse(key, value, "1 to 32 of a-z and 0-9, beginning with a letter")


def _token(key, value):
    if not isinstance(value, str) or len(value) != 43 or not all(c in _TOKEN for c in value):
        shown = "%d characters" % len(value) if isinstance(value, str) else type(value).__name__
        raise ConfigError("%s is %s, but must be the 43 that the server showed (not printed here)" % (key, shown))


def _server(key, value):
    if not isinstance(value, dict):
        _refuse(key, value, 'like {"host": "192.168.1.5", "port": 8443}')
    _keys(value, {"host": _text, "port": lambda k, v: _integer(k, v, 1, 65535)}, ("host", "port"), key + ".")


def _wifi(key, value):
    if not isinstance(value, list) or len(value) > 16:  # none: it is told over the cable (device.cable)
        raise ConfigError('%s must be a list of up to 16 networks, {"ssid": "...", "password": "..."}' % key)
    for number, network in enumerate(value):
        name = "%s[%d]" % (key, number)
        if not isinstance(network, dict):
            raise ConfigError('%s must be like {"ssid": "...", "password": "..."}' % name)
        _keys(network, {"ssid": _ssid, "password": _password}, ("ssid", "password"), name + ".")


def _ssid(key, value):
    if not isinstance(value, str) or not 1 <= len(value.encode()) <= 32:
        _refuse(key, value, "a network's name, 1 to 32 bytes")


def _password(key, value):
    # WPA2 takes 8 to 63 characters, or 64 hexadecimal digits; an open network takes none.
    if not isinstance(value, str) or not (value == "" or 8 <= len(value) <= 64):
        shown = "%d characters" % len(value) if isinstance(value, str) else type(value).__name__
        raise ConfigError('%s is %s, but must be of 8 to 64, or "" for an open network' % (key, shown))


def _ntp(key, value):
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        _refuse(key, value, "a list of 1 to 8 host names or addresses")
    for number, host in enumerate(value):
        _text("%s[%d]" % (key, number), host)


def _hands(key, value):
    good = isinstance(value, str) and len(value) == 8 and value[2] == value[5] == ":"
    if good:
        parts = value.split(":")
        good = all(p.isdigit() for p in parts)
        good = good and 0 <= int(parts[0]) <= 12 and int(parts[1]) <= 59 and int(parts[2]) <= 59
    if not good:
        _refuse(key, value, 'the time that the hands show, "00:00:00" to "12:59:59"')


def _morse(key, value):
    if not isinstance(value, str) or not 1 <= len(value) <= 500:
        _refuse(key, value, "a text of 1 to 500 characters")


def _pattern(key, value):
    if not isinstance(value, list) or not 1 <= len(value) <= 60:
        _refuse(key, value, "a list of 1 to 60 weights, such as [2, 1, 1]")
    for number, weight in enumerate(value):
        _integer("%s[%d]" % (key, number), weight, 1, 10_000)


def _gain(key, value):
    _integer(key, value, -24, 24)
    if value % 6:
        _refuse(key, value, "a multiple of 6")


_CONFIG = {
    "app": _app,
    "device": _device,
    "token": _token,
    "server": _server,
    "wifi": _wifi,
    "ntp": _ntp,
    "timezone": _text,
    "mode": _text,
    "seed": lambda k, v: _integer(k, v, 0, 0x3FFFFFFF),
    "hands": _hands,
    "morse": _morse,
    "pattern": _pattern,
    "gain_db": _gain,
    "sleep_after_s": lambda k, v: _integer(k, v, 0, 3600),
}
_REQUIRED = {
    "pendant": ("app", "device", "token", "server", "wifi"),
    "clock": ("app", "device", "wifi", "ntp", "timezone", "mode", "seed"),
}


def _keys(value, checks, required, prefix=""):
    for key in required:
        if key not in value:
            raise ConfigError("%s%s is missing" % (prefix, key))
    for key in value:
        if key not in checks:
            raise ConfigError("%s%s is not known; known are: %s" % (prefix, key, ", ".join(sorted(checks))))
        checks[key](prefix + key, value[key])


def check(config: dict) -> dict:
    """`config` itself, if all is well with it; else ConfigError. A clock may be without `server` and `token`."""
    if "app" not in config:
        raise ConfigError('app is missing: "pendant" or "clock"')
    _app("app", config["app"])
    _keys(config, _CONFIG, _REQUIRED[config["app"]])
    if "server" in config and "token" not in config:
        raise ConfigError("token is missing: with server, the token that it showed is needed")
    return config


def check_some(settings: dict) -> dict:
    """`settings` itself, if each of them is right for a configuration, which as a whole it need not be."""
    _keys(settings, _CONFIG, ())
    return settings


def _pin(key, value):
    _integer(key, value, 0, 48)


def _pins(key, value):
    if not isinstance(value, dict) or not value:
        _refuse(key, value, "an object of pin names and numbers")
    used: dict = {}
    for name in value:
        numbers = value[name] if isinstance(value[name], list) else [value[name]]
        for number in numbers:
            _pin("%s.%s" % (key, name), number)
            if number in used:
                raise ConfigError("%s.%s is %d, but %s has that pin" % (key, name, number, used[number]))
            used[number] = name
    for name in ("button", "light"):
        if name not in value:
            raise ConfigError("%s.%s is missing" % (key, name))


def _divider(key, value):
    if not isinstance(value, list) or len(value) != 2:
        _refuse(key, value, "the upper and the lower resistor, like [220, 220]")
    for number in value:
        _integer(key, number, 1, 10_000)


def _flag(key, value):
    if not isinstance(value, bool):
        _refuse(key, value, "true or false")


def _movement(key, value):
    if not isinstance(value, dict):
        _refuse(key, value, "an object")
    checks = {
        "pulse_us": lambda k, v: _integer(k, v, 1000, 100000),
        "duty_percent": lambda k, v: _integer(k, v, 10, 100),
        "gap_ms": lambda k, v: _integer(k, v, 1, 500),
        "catch_up_hz": lambda k, v: _integer(k, v, 1, 30),
    }
    needed = list(checks)
    checks["margins"] = _anything  # what the calibration found; nothing reads it
    _keys(value, checks, needed, key + ".")


def _anything(key, value):
    pass


# Why a pin cannot drive a coil: it lies high when the chip starts, or has another use. By chip, as (pins, why).
# Sources: Espressif's data sheets (strapping pins; "Power-Up Glitches on Pins", of which only those to a high level are
# listed here: a pin that is driven low for 60 us does a coil nothing) and the GPIO page of ESP-IDF's programming guide.
# Not seen in the data sheets themselves, but in what others quote from them: the glitches of GPIO18 (C3) and GPIO19, 20
# (S3). Not verified: the glitch of GPIO18 (S3).
STRAPPING = "a strapping pin, pulled and read at the start"
FLASH = "wired to the flash or the PSRAM"
CONSOLE = "of the console, which speaks at the start"
USB = "of USB, pulled up at the start"
UNFIT = {
    "esp32": (
        ((0, 2, 5, 12, 15), STRAPPING),
        ((1, 3), CONSOLE),
        ((6, 7, 8, 9, 10, 11, 16, 17), FLASH),
        ((14,), "of JTAG, pulled up at the start"),
        ((34, 35, 36, 37, 38, 39), "an input only"),
        ((20, 24, 28, 29, 30, 31), "not there"),
    ),
    "esp32c3": (
        ((2, 8, 9), STRAPPING),
        ((11, 12, 13, 14, 15, 16, 17), FLASH),
        ((18, 19), USB),
        ((20, 21), CONSOLE),
    ),
    "esp32s3": (
        ((0, 3, 45, 46), STRAPPING),
        ((18,), "high for a moment at power-up"),
        ((19, 20), USB),
        ((22, 23, 24, 25), "not there"),
        ((26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37), FLASH),
        ((43, 44), CONSOLE),
    ),
}
MOST_PIN = {"esp32": 39, "esp32c3": 21, "esp32s3": 48}


def _coil(key, value, chip):
    if not isinstance(value, list) or len(value) != 2:
        _refuse(key, value, "the two pins between which the coil lies, like [3, 10]")
    if chip not in UNFIT:
        _refuse("chip", chip, "one whose pins are known to be quiet at the start: " + ", ".join(sorted(UNFIT)))
    for number in value:
        why = "not there" if number > MOST_PIN[chip] else ""
        for pins, reason in UNFIT[chip]:
            if number in pins:
                why = reason
        if why:
            raise ConfigError("%s: pin %d cannot drive a coil, on an %s it is %s" % (key, number, chip, why))


def check_board(board: dict) -> dict:
    """`board` itself, if all is well with it; else ConfigError."""
    checks = {
        "name": _text,
        "chip": _text,
        "app": _app,
        "pins": _pins,
        "light_active_low": _flag,
        "movement": _movement,
        "battery_divider": _divider,
        "on_board": _anything,  # these three are for people and tools: what is where, and what to buy
        "labels": _anything,
        "parts": _anything,
    }
    _keys(board, checks, ("name", "chip", "app", "pins", "light_active_low"))
    needed = ("microphone_sck", "microphone_ws", "microphone_sd") if board["app"] == "pendant" else ("coil",)
    for name in needed:
        if name not in board["pins"]:
            raise ConfigError("pins.%s is missing" % name)
    if "battery" in board["pins"] and "battery_divider" not in board:
        raise ConfigError("battery_divider is missing: with pins.battery, the upper and the lower resistor are needed")
    if board["app"] == "clock":
        _coil("pins.coil", board["pins"]["coil"], board["chip"])
        if "movement" not in board:
            raise ConfigError("movement is missing")
    return board
