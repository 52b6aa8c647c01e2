"""Against packets written out by hand from the specification, https://www.improv-wifi.com/serial."""

from device import improv
from device.improv import Parser

# The example of "Send Wi-Fi settings": 01 1E 0C {MyWirelessAP} 10 {mysecurepassword}, in a packet.
SEND = b"IMPROV\x01\x03\x20\x01\x1e\x0cMyWirelessAP\x10mysecurepassword\xc1"
ASK_STATE = b"IMPROV\x01\x03\x02\x02\x00\xe5"
ASK_INFO = b"IMPROV\x01\x03\x02\x03\x00\xe6"
ASK_NETWORKS = b"IMPROV\x01\x03\x02\x04\x00\xe7"


def fed(parser, stream):
    return [seen for seen in [parser.feed(byte) for byte in stream] if seen is not None]


def refused(function, data):
    try:
        function(data)
    except ValueError as error:
        return str(error)
    raise AssertionError("%r was taken" % data)


def test_the_specification_s_example():
    parser = Parser()
    ((kind, data),) = fed(parser, SEND)
    assert kind == improv.COMMAND
    command, brings = improv.command(data)
    assert command == improv.SEND_WIFI
    assert improv.wifi_settings(brings) == ("MyWirelessAP", "mysecurepassword")
    assert not parser.inside


def test_the_other_commands():
    found = [improv.command(data) for _, data in fed(Parser(), ASK_STATE + ASK_INFO + ASK_NETWORKS)]
    assert found == [(improv.GET_STATE, b""), (improv.GET_INFO, b""), (improv.SCAN, b"")]


def test_garbage_before_and_between():
    for garbage in (
        b"\r\n",
        b"I",
        b"IMPRO",
        b"IIMPROIMPROV",
        b"IMPROV\x02",
        b"ready: room for 600 s\n",
        bytes(range(4, 256)),
    ):
        assert fed(Parser(), garbage + ASK_STATE + garbage + ASK_INFO) == [(3, b"\x02\x00"), (3, b"\x03\x00")], garbage


def test_split_at_every_byte():
    for at in range(1, len(SEND)):
        parser = Parser()
        assert fed(parser, SEND[:at]) == [] and parser.inside
        assert len(fed(parser, SEND[at:])) == 1


def test_every_wrong_byte_is_noticed():
    for at in range(len(SEND)):
        wrong = bytearray(SEND)
        wrong[at] ^= 0x40
        # A greater length swallows what follows: so something long must follow.
        seen = fed(Parser(), bytes(wrong) + bytes(255))
        assert seen in ([], [improv.INTERRUPT], [(improv.ERROR, improv.INVALID)]), (at, seen)


def test_what_stops_in_the_middle_can_be_dropped():
    parser = Parser()
    assert fed(parser, SEND[:20]) == [] and parser.inside
    parser.drop()
    assert fed(parser, ASK_STATE) == [(3, b"\x02\x00")]


def test_ctrl_c_is_one_outside_of_a_packet_only():
    for before in (b"", b"\r", b"IMP", b"IMPROV", SEND):
        assert fed(Parser(), before + b"\x03")[-1] == improv.INTERRUPT, before
    assert improv.INTERRUPT not in fed(Parser(), ASK_STATE + SEND + ASK_INFO)


def test_commands_of_a_wrong_length_are_refused():
    for data in (b"", b"\x02", b"\x02\x01", b"\x02\x00\x00"):
        refused(improv.command, data)
    for brings in (b"", b"\x04home", b"\x05home", b"\x04home\x09password", b"\x01a\x01b\x01c", b"\x02\xff\xfe\x00"):
        refused(improv.wifi_settings, brings)
    assert improv.wifi_settings(b"\x04home\x00") == ("home", "")


def test_what_the_device_says():
    """Each on a line of its own, or the clients do not see it."""
    assert improv.packet(improv.STATE, bytes([improv.READY])) == b"\nIMPROV\x01\x01\x01\x02\xe2\n"
    assert improv.packet(improv.STATE, bytes([improv.PROVISIONED])) == b"\nIMPROV\x01\x01\x01\x04\xe4\n"
    assert improv.packet(improv.ERROR, bytes([improv.UNABLE])) == b"\nIMPROV\x01\x02\x01\x03\xe4\n"
    assert improv.result(improv.SEND_WIFI, ()) == b"\nIMPROV\x01\x04\x02\x01\x00\xe5\n"
    # The specification's example of a device's information.
    texts = ("ESPHome", "2021.11.0", "esp32-s3-devkitc-1/esp32-s3", "Temperature Monitor")
    body = b"\x07ESPHome\x092021.11.0\x1besp32-s3-devkitc-1/esp32-s3\x13Temperature Monitor"
    said = improv.result(improv.GET_INFO, texts)
    assert said[:12] == b"\nIMPROV\x01\x04\x44\x03\x42" and said[12:-2] == body
