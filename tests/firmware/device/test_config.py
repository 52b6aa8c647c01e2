"""The configuration: what is right passes, what is wrong is named."""

import binascii
import json
import os

from device import config

TOKEN = "BVCTC_cIhVt0sk_I8N4gHFyNteExLAyfricpmlP8jD4"


def pendant(**changes):
    value = {
        "app": "pendant",
        "device": "p7",
        "token": TOKEN,
        "server": {"host": "192.168.1.5", "port": 8443},
        "wifi": [{"ssid": "home", "password": "secret-password"}, {"ssid": "cafe", "password": ""}],
    }
    value.update(changes)
    return value


def clock(**changes):
    value = {
        "app": "clock",
        "device": "clock1",
        "wifi": [{"ssid": "home", "password": "secret-password"}],
        "ntp": ["ntp.sim"],
        "timezone": "EET-2EEST,M3.5.0/3,M10.5.0/4",
        "mode": "vetinari",
        "seed": 1,
        "hands": "12:00:00",
    }
    value.update(changes)
    return value


def board(**changes):
    value = {
        "name": "a board",
        "chip": "esp32s3",
        "app": "pendant",
        "pins": {"button": 1, "light": 21, "microphone_sck": 7, "microphone_ws": 8, "microphone_sd": 9},
        "light_active_low": True,
    }
    value.update(changes)
    return value


def refusal(check, value):
    try:
        check(value)
    except config.ConfigError as e:
        return str(e)
    raise AssertionError(f"accepted: {value}")


def test_good_ones_pass():
    for value in (
        pendant(),
        clock(),
        clock(server={"host": "h", "port": 1}, token=TOKEN),
        clock(morse="x" * 500, pattern=[1, 10_000] * 30),
        clock(pattern=[1]),
    ):
        assert config.check(value) is value
    assert config.check_board(board())
    movement = {"pulse_us": 31000, "duty_percent": 100, "gap_ms": 20, "catch_up_hz": 8}
    pins = {"button": 1, "light": 8, "coil": [3, 10]}
    assert config.check_board(board(app="clock", chip="esp32c3", pins=pins, movement=movement))
    movement["margins"] = {"pulse_us": [18_000, 64_000]}
    assert config.check_board(board(app="clock", chip="esp32c3", pins=pins, movement=movement))


def test_wrong_values_are_named_with_key_and_value():
    for value, key, shown in (
        (pendant(app="penguin"), "app", "'penguin'"),
        (pendant(device="P7"), "device", "'P7'"),
        (pendant(device="7p"), "device", "'7p'"),
        (pendant(device="p" * 33), "device", "ppp"),
        (pendant(device=""), "device", "''"),
        (pendant(server="h"), "server", "'h'"),
        (pendant(server={"host": "h", "port": 0}), "server.port", "0"),
        (pendant(server={"host": "h", "port": "8443"}), "server.port", "'8443'"),
        (pendant(server={"host": "h"}), "server.port", "missing"),
        (pendant(wifi=[{"ssid": "x" * 33, "password": ""}]), "wifi[0].ssid", "xxx"),
        (pendant(wifi=[{"ssid": "x", "password": ""}, {"password": ""}]), "wifi[1].ssid", "missing"),
        (pendant(wifi={}), "wifi", "list"),
        (pendant(tokn="x"), "tokn", "known are"),
        (clock(ntp=[]), "ntp", "[]"),
        (clock(ntp=["ok", 5]), "ntp[1]", "5"),
        (clock(seed=True), "seed", "True"),
        (clock(seed=-1), "seed", "-1"),
        (clock(hands="25:00:00"), "hands", "'25:00:00'"),
        (clock(hands="1:00:00"), "hands", "'1:00:00'"),
        (clock(hands="12:00:60"), "hands", "'12:00:60'"),
        (clock(timezone=""), "timezone", "''"),
        (clock(morse=""), "morse", "''"),
        (clock(morse="x" * 501), "morse", "'xxx"),
        (clock(morse=5), "morse", "5"),
        (clock(pattern=[]), "pattern", "[]"),
        (clock(pattern=[1] * 61), "pattern", "[1, 1"),
        (clock(pattern="waltz"), "pattern", "'waltz'"),
        (clock(pattern=[2, 0]), "pattern[1]", "0"),
        (clock(pattern=[10_001]), "pattern[0]", "10001"),
        (clock(pattern=[2, True]), "pattern[1]", "True"),
        (clock(server={"host": "h", "port": 1}), "token", "missing"),
        (pendant(gain_db=7), "gain_db", "7"),
        (pendant(gain_db=30), "gain_db", "30"),
        (pendant(sleep_after_s=3601), "sleep_after_s", "3601"),
    ):
        text = refusal(config.check, value)
        assert text.startswith(key) and shown in text, text


def test_some_settings_alone():
    some = {"morse": "cq", "pattern": [2, 1], "seed": 3}
    assert config.check_some(some) is some
    assert refusal(config.check_some, {"pattern": [2, 1.5]}).startswith("pattern[1] is 1.5")
    assert refusal(config.check_some, {"tempo": 5}).startswith("tempo is not known")


def test_missing_keys_are_named():
    for value in (pendant(), clock()):
        for key in list(value):
            if value["app"] == "clock" and key == "hands":
                continue
            less = dict(value)
            del less[key]
            assert refusal(config.check, less).startswith(key + " is missing"), key


def test_secrets_are_never_shown():
    for token in (TOKEN[:-1], TOKEN + "x", TOKEN[:-1] + "!"):
        text = refusal(config.check, pendant(token=token))
        assert TOKEN[:10] not in text and "token" in text and str(len(token)) in text
    text = refusal(config.check, pendant(wifi=[{"ssid": "home", "password": "secret"}]))
    assert "secret" not in text and "wifi[0].password is 6 characters" in text
    for wifi in ("secret-password", [["secret-password"]], {"password": "secret-password"}):
        assert "secret" not in refusal(config.check, pendant(wifi=wifi))


def test_pins_that_are_not_quiet_at_the_start_are_refused_for_the_coil():
    movement = {"pulse_us": 31000, "duty_percent": 100, "gap_ms": 20, "catch_up_hz": 8}
    for chip, good, bad in (
        ("esp32c3", [(3, 10), (0, 1), (4, 7)], {2: "strapping", 9: "strapping", 12: "flash", 18: "USB", 21: "console"}),
        ("esp32s3", [(1, 2), (5, 6), (38, 48)], {0: "strapping", 19: "USB", 20: "USB", 27: "flash", 43: "console"}),
        ("esp32", [(25, 26), (32, 33)], {15: "strapping", 1: "console", 6: "flash", 14: "JTAG", 34: "input only"}),
    ):
        for coil in good:
            pins = {"button": 22, "light": 23, "coil": list(coil)}
            assert config.check_board(board(app="clock", chip=chip, pins=pins, movement=movement))
        for number in bad:
            for coil in ([number, good[0][0]], [good[0][0], number]):
                pins = {"button": 22, "light": 23, "coil": coil}
                text = refusal(config.check_board, board(app="clock", chip=chip, pins=pins, movement=movement))
                assert text.startswith("pins.coil: pin %d " % number) and bad[number] in text, text
    for changes, key in (({"chip": "rp2040"}, "chip"), ({"pins": {"button": 1, "light": 4, "coil": 3}}, "pins.coil")):
        value = board(app="clock", chip="esp32c3", pins={"button": 1, "light": 4, "coil": [3, 10]}, movement=movement)
        value.update(changes)
        assert refusal(config.check_board, value).startswith(key)


def test_boards_that_cannot_be():
    pins = board()["pins"]
    for value, key in (
        (board(light_active_low=1), "light_active_low"),
        (board(pins={"button": 1}), "pins.light"),
        (board(pins=dict(list(pins.items()) + [("light", 7)])), "pins."),
        (board(pins=dict(list(pins.items()) + [("light", 49)])), "pins.light"),
        (board(app="clock"), "pins.coil"),
        (board(pins={"button": 1, "light": 21}), "pins.microphone_sck"),
    ):
        assert refusal(config.check_board, value).startswith(key), value
    twice = refusal(config.check_board, board(pins={"button": 7, "light": 7}))
    assert "button" in twice and "light" in twice and "7" in twice


def test_files():
    path = "/tmp/config-" + binascii.hexlify(os.urandom(8)).decode() + ".json"
    assert path in refusal(config.load, path)
    try:
        for text, said in (("{x", "not JSON"), ("[]", "object"), (json.dumps(pendant(seed=5)), None)):
            with open(path, "w") as file:
                file.write(text)
            if said is None:
                assert config.load(path)["seed"] == 5
            else:
                assert said in refusal(config.load, path)
        kept = path + ".kept"
        with open(path, "w") as file:
            file.write(json.dumps(clock()))
        for text, mode, zone in (
            ('{"settings": {"mode": 5, "timezone": "GMT0", "colour": 1}}', "vetinari", "GMT0"),
            ('{"settings": {"mode": "rush"}}', "rush", clock()["timezone"]),
            ('{"settings": 5}', "vetinari", clock()["timezone"]),
            ("[]", "vetinari", clock()["timezone"]),
            ("{", "vetinari", clock()["timezone"]),
        ):
            with open(kept, "w") as file:
                file.write(text)
            loaded = config.load(path, kept)
            assert (loaded["mode"], loaded["timezone"]) == (mode, zone), text
        os.remove(kept)
        assert config.load(path, kept) == clock()
    finally:
        os.remove(path)
