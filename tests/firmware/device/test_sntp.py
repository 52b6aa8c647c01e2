from device.sntp import KissOfDeath, Manners, Refused, answer, request

NONCE = b"\x01\x02\x03\x04\x05\x06\x07\x08"
# 2026-07-16 00:00:00 UTC: minute 29,736,000 since 1970, second 3,993,148,800 since 1900.
MINUTE = 29_736_000
SECOND = 3_993_148_800


def packet(flags=0x24, stratum=2, name=b"SIM\0", nonce=NONCE, t2=(SECOND, 0), t3=(SECOND, 0), root=bytes(8)):
    def stamp(time):
        return (time[0] & 0xFFFFFFFF).to_bytes(4, "big") + time[1].to_bytes(4, "big")

    head = bytes([flags, stratum, 6, 0xEC]) + root + name
    return head + bytes(8) + nonce + stamp(t2) + stamp(t3)


def test_the_request():
    sent = request(NONCE)
    assert len(sent) == 48
    assert sent[0] == 0x23  # no leap, version 4, mode 3
    assert sent[40:] == NONCE
    assert not any(sent[1:40])


def test_time_delay_and_error():
    # The server took 1.5 s over it; 1,540,000 us passed here, so 40,000 us were spent on the way, half of them back.
    half = 1 << 31
    minute, us, delay_us, error_us = answer(packet(t2=(SECOND, 0), t3=(SECOND + 1, half)), NONCE, 1_540_000)
    assert (minute, us, delay_us, error_us) == (MINUTE, 1_520_000, 40_000, 20_000)


def test_fractions_are_within_sixteen_microseconds():
    for us in (0, 1, 15, 16, 999, 123_456, 500_000, 999_999):
        fraction = (us << 32) // 1_000_000
        told = answer(packet(t2=(SECOND, fraction), t3=(SECOND, fraction)), NONCE, 0)
        assert told[0] == MINUTE and 0 <= us - told[1] <= 16, us


def test_the_way_back_may_cross_a_minute():
    last = 0xFFFFFFFF
    minute, us, _, _ = answer(packet(t2=(SECOND + 59, last), t3=(SECOND + 59, last)), NONCE, 100_000)
    assert minute == MINUTE + 1 and 49_980 <= us <= 50_000


def test_the_era_that_begins_in_2036():
    # 2036-02-07 06:28:15 is the last second of era 0; NTP's seconds then count from 0 again.
    last = answer(packet(t2=(0xFFFFFFFF, 0), t3=(0xFFFFFFFF, 0)), NONCE, 0)
    first = answer(packet(t2=(0, 0), t3=(0, 1)), NONCE, 0)
    assert last[:2] == (34_766_308, 15_000_000)
    assert first[:2] == (34_766_308, 16_000_000)
    across = answer(packet(t2=(0xFFFFFFFF, 0xFFFF0000), t3=(0, 1 << 30)), NONCE, 400_000)
    assert across[0] == 34_766_308 and 16_250_000 + 74_990 <= across[1] <= 16_250_000 + 75_020
    y2099 = 4_102_444_799 + 2_208_988_800  # the last second of 2099
    assert answer(packet(t2=(y2099, 0), t3=(y2099, 0)), NONCE, 0)[0] == 68_374_079


def test_the_servers_own_distance_counts_as_error():
    root = b"\x00\x00\x40\x00" + b"\x00\x00\x20\x00"  # root delay 0.25 s, dispersion 0.125 s
    assert answer(packet(root=root), NONCE, 10_000)[3] == 5_000 + 125_000 + 125_000


def test_what_is_refused():
    for why, bad in (
        ("47 bytes", packet()[:47]),
        ("0 bytes", b""),
        ("mode 3", packet(flags=0x23)),
        ("mode 5", packet(flags=0x25)),
        ("not the answer", packet(nonce=bytes(8))),
        ("not the answer", packet(nonce=NONCE[:7] + b"\x09")),
        ("stratum 16", packet(stratum=16)),
        ("not synchronised", packet(flags=0xE4)),
        ("no transmit time", packet(t2=(0, 0), t3=(0, 0))),
        ("ms off", packet(root=b"\x00\x00\x00\x00\x00\x01\x80\x00")),
        ("contradict", packet(t2=(SECOND + 1, 0), t3=(SECOND, 0))),
        ("contradict", packet(t2=(SECOND, 0), t3=(SECOND, 1 << 31))),  # half a second's work in 50 ms
        ("contradict", packet(t2=(SECOND - 4000, 0), t3=(SECOND, 0))),
    ):
        try:
            answer(bad, NONCE, 50_000)
        except Refused as error:
            assert why in str(error), (why, error)
            assert not isinstance(error, KissOfDeath)
        else:
            raise AssertionError(why)
    assert answer(packet(), NONCE, 50_000)[0] == MINUTE


def test_leap_warnings_are_no_reason_to_refuse():
    for flags in (0x64, 0xA4):
        assert answer(packet(flags=flags), NONCE, 0)[0] == MINUTE


def test_kiss_of_death():
    for code in (b"RATE", b"DENY", b"RSTR"):
        try:
            answer(packet(stratum=0, name=code, flags=0xE4), NONCE, 0)
        except KissOfDeath as error:
            assert error.code == code.decode()
        else:
            raise AssertionError(code)
    try:  # and not from a stranger
        answer(packet(stratum=0, name=b"DENY", nonce=bytes(8)), NONCE, 0)
    except Refused as error:
        assert not isinstance(error, KissOfDeath)


def test_polling_is_never_faster_than_the_floor_and_slows_down():
    manners = Manners(["a"])
    waits = []
    for _ in range(40):
        for random in (0, 255):
            assert manners.wait_ms(random) >= 15_000
        waits.append(manners.wait_ms(0))
        manners.succeeded()
    assert waits[0] == 16_000 and waits[:4] == [16_000] * 4 and waits[4] == 32_000
    assert waits == sorted(waits) and waits[-1] == 1_024_000
    assert manners.wait_ms(255) == 1_024_000 + 255 * 1024


def test_failures_back_off_and_go_round():
    manners = Manners(["a", "b"])
    asked, waits = [], []
    for _ in range(10):
        asked.append(manners.server)
        manners.failed()
        waits.append(manners.wait_ms(0))
    assert asked == ["a", "b"] * 5
    assert waits == [32_000, 64_000, 128_000, 256_000, 512_000] + [1_024_000] * 5


def test_after_a_doubtful_answer_another_is_asked_soon():
    manners = Manners(["a", "b"])
    for _ in range(20):
        manners.succeeded()
    manners.doubted()
    assert manners.server == "b" and manners.wait_ms(0) == 16_000
    manners.doubted()
    assert manners.server == "a" and manners.wait_ms(0) == 16_000
    for _ in range(4):
        manners.succeeded()
    assert manners.server == "a" and manners.wait_ms(0) == 32_000
    alone, waits = Manners(["a"]), []
    for _ in range(8):
        alone.doubted()
        waits.append(alone.wait_ms(0) // 1000)
    assert alone.server == "a" and waits == [16, 16, 16, 16, 32, 64, 128, 256]


def test_kisses_are_heeded():
    manners = Manners(["a", "b"])
    manners.kissed("RATE")
    assert manners.server == "a" and manners.wait_ms(0) == 32_000
    manners.kissed("DENY")
    assert manners.server == "b"
    manners.failed()
    assert manners.server == "b"
    manners.kissed("RSTR")
    assert manners.wait_ms(0) == 86_400_000  # nobody is left: a day later, and slowly from then on
    assert manners.server == "a" and manners.wait_ms(0) == 1_024_000


def test_a_time_that_cannot_be_is_refused():
    for seconds in (473_385_600, 1_700_000_000, 4_102_444_800):  # 1985, 2023, 2100
        stamp = ((seconds + 2_208_988_800) & 0xFFFFFFFF, 0)
        try:
            answer(packet(t2=stamp, t3=stamp), NONCE, 0)
        except Refused:
            continue
        raise AssertionError(seconds)
