from clock.timezone import Zone, is_leap, new_year, year_of

DAY = 1440


def at(year, day, hour=0, minute=0):
    """Minutes since 1970 of a day of the year (0 is the 1st of January)."""
    return (new_year(year) + day) * DAY + hour * 60 + minute


def test_years():
    assert new_year(1970) == 0
    assert new_year(1971) == 365
    assert new_year(2000) == 10_957
    assert new_year(2026) == 20_454
    for year in range(1971, 2150):
        assert new_year(year) - new_year(year - 1) == 365 + is_leap(year - 1)
        assert year_of(new_year(year)) == year
        assert year_of(new_year(year) - 1) == year - 1
    assert [is_leap(year) for year in (1900, 2000, 2024, 2025, 2100)] == [False, True, True, False, False]


# (TZ, ((year, day of the year, hour, minute, second: the first moment in UTC with this offset), offset in s), ...)
CHANGES = (
    # Athens 2026: 29 March (day 87) 03:00 local = 01:00 UTC; 25 October (day 297) 04:00 local = 01:00 UTC.
    ("EET-2EEST,M3.5.0/3,M10.5.0/4", (((2026, 87, 1, 0, 0), 10_800), ((2026, 297, 1, 0, 0), 7200))),
    # New York 2026: 8 March (66) 07:00 UTC; 1 November (304) 06:00 UTC.
    ("EST5EDT,M3.2.0,M11.1.0", (((2026, 66, 7, 0, 0), -14_400), ((2026, 304, 6, 0, 0), -18_000))),
    # Lord Howe 2026: half an hour; 4 April 15:00 UTC (93), 3 October 15:30 UTC (275).
    ("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", (((2026, 93, 15, 0, 0), 37_800), ((2026, 275, 15, 30, 0), 39_600))),
    # Dublin: winter is the daylight saving, an hour back.
    ("IST-1GMT0,M10.5.0,M3.5.0/1", (((2026, 87, 1, 0, 0), 3600), ((2026, 297, 1, 0, 0), 0))),
    # Nuuk: times below zero: Saturday 23:00 is Sunday at -1.
    ("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", (((2026, 87, 1, 0, 0), -3600), ((2026, 297, 1, 0, 0), -7200))),
    # Jerusalem: hours over 24, the Friday after the fourth Thursday; 27 March 2026 02:00 local.
    ("IST-2IDT,M3.4.4/26,M10.5.0", (((2026, 85, 0, 0, 0), 10_800), ((2026, 296, 23, 0, 0), 7200))),
    # Jn never counts the 29th of February, n does; seconds in offsets and times.
    ("AAA0BBB,J60/1,300/2:30:15", (((2028, 60, 1, 0, 0), 3600), ((2028, 300, 1, 30, 15), 0))),
    ("AAA0BBB,59/1,J300/2", (((2028, 59, 1, 0, 0), 3600), ((2028, 300, 1, 0, 0), 0))),
    ("AAA1:02:03BBB0:02:03,59/0,J300/0", (((2027, 59, 1, 2, 3), -123), ((2027, 299, 0, 2, 3), -3723))),
    # A week beside the day that is named, over New Year: 31 December and 167 hours is the 6th of January, 23:00.
    ("AAA0BBB,J180/0,J365/167", (((2027, 5, 22, 0, 0), 0),)),
)


def test_each_change_to_the_second():
    for text, changes in CHANGES:
        for (year, day, hour, minute, second), offset_s in changes:
            moment = at(year, day, hour, minute)
            before = (moment, second - 1) if second else (moment - 1, 59)
            for _ in range(2):  # a fresh zone, then one that has found its way from the other side
                zone = Zone(text)
                assert zone.utc_offset_s(*before) != offset_s, (text, year, day)
                assert zone.utc_offset_s(moment, second) == offset_s, (text, year, day)
                assert zone.utc_offset_s(*before) != offset_s, (text, year, day)


def test_zones_without_changes():
    for text, offset_s in (
        ("UTC0", 0),
        ("<+0545>-5:45", 20_700),
        ("<-03>3", -10_800),
        ("HST10", -36_000),
        ("AAA+24", -86_400),
        ("AAA-24:59:59", 89_999),
    ):
        zone = Zone(text)
        for year in (1971, 2026, 2099):
            assert zone.utc_offset_s(at(year, 100)) == offset_s


def test_daylight_saving_all_the_year():
    for text in ("EST5EDT,0/0,J365/25", "XXX3EDT4,0/0,J365/23"):
        zone = Zone(text)
        for year in (2026, 2027, 2028):
            for day in (0, 1, 100, 363, 364):
                for hour in (0, 3, 4, 5, 23):
                    assert zone.utc_offset_s(at(year, day, hour)) == -14_400, (text, year, day, hour)


def test_nonsense_is_refused_with_the_place():
    for text, place in (
        ("", ""),
        ("E2", "2"),
        ("EET", ""),
        ("EET-2EEST", ""),
        ("EET-2EEST,M3.5.0/3", ""),
        ("EET-2EEST,M13.5.0/3,M10.5.0/4", "13.5.0/3,M10.5.0/4"),
        ("EET-2EEST,M3.0.0/3,M10.5.0/4", "0.0/3,M10.5.0/4"),
        ("EET-2EEST,M3.5.7/3,M10.5.0/4", "7/3,M10.5.0/4"),
        ("EET-2EEST,J0,J365", "0,J365"),
        ("EET-2EEST,J366,J1", "366,J1"),
        ("EET-2EEST,366,1", "366,1"),
        ("EET-2EEST,M3.5.0/168,M10.5.0", "168,M10.5.0"),
        ("EET-25", "25"),
        ("EET-2:60", "60"),
        ("<EET-2", ""),
        ("Europe/Athens", "/Athens"),
        ("EET-2EEST,M3.5.0/3,M10.5.0/4x", "x"),
    ):
        try:
            Zone(text)
        except ValueError as error:
            assert str(error).endswith('at "' + place + '"'), (text, error)
            assert '"' + text + '"' in str(error)
        else:
            raise AssertionError(text)
