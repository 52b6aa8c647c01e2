from clock.store import NvsStore


class Nvs:
    """Stands for esp32.NVS: what is not committed is lost."""

    def __init__(self, kept):
        self.kept = kept
        self.values = dict(kept)
        self.commits = 0

    def _get(self, key):
        if key not in self.values:
            raise OSError(-0x1102)
        return self.values[key]

    def set_i32(self, key, value):
        assert -(1 << 31) <= value < 1 << 31 and len(key) <= 15
        self.values[key] = value

    get_i32 = _get

    def set_blob(self, key, value):
        self.values[key] = bytes(value)

    def get_blob(self, key, buffer):
        value = self._get(key)
        buffer[: len(value)] = value
        return len(value)

    def commit(self):
        self.commits += 1
        self.kept.update(self.values)


def test_blank():
    store = NvsStore(Nvs({}))
    assert store.place() is None
    assert store.mode() is None


def test_place_and_mode_come_back():
    kept = {}
    for position, polarity in ((0, 0), (0, 1), (43_199, 0), (43_199, 1), (12_345, 1)):
        NvsStore(Nvs(kept)).write(position, polarity)
        assert NvsStore(Nvs(kept)).place() == (position, polarity)
    NvsStore(Nvs(kept)).choose("vetinari")
    assert NvsStore(Nvs(kept)).mode() == "vetinari"
    assert NvsStore(Nvs(kept)).place() == (12_345, 1)


def test_a_commit_a_minute():
    nvs = Nvs({})
    store = NvsStore(nvs)
    for position in range(1, 601):
        store.commit(position, position & 1)
    assert nvs.commits == 10
    assert NvsStore(Nvs(nvs.kept)).place() == (600, 0)


def test_where_the_hands_come_to_rest_is_kept_at_once():
    nvs = Nvs({})
    store = NvsStore(nvs)
    store.commit(17, 1, True)
    assert NvsStore(Nvs(nvs.kept)).place() == (17, 1)
    assert store.tidy() is False


def test_the_hold_comes_back():
    kept = {}
    assert NvsStore(Nvs(kept)).goal() is None
    for goal in (0, 43_199, None, 600):
        NvsStore(Nvs(kept)).hold(goal)
        assert NvsStore(Nvs(kept)).goal() == goal


def test_nonsense_counts_as_blank():
    for value in (-1, 86_400, 1 << 30):
        assert NvsStore(Nvs({"place": value})).place() is None
    for value in (-1, 43_200, 1 << 30):
        assert NvsStore(Nvs({"goal": value})).goal() is None


def test_what_the_button_changed_is_known_after_a_cut_until_the_server_has_heard():
    nvs = Nvs({})
    store = NvsStore(nvs)
    assert store.touched() == []
    for setting, touched in (("hold", ["hold"]), ("mode", ["mode", "hold"]), ("mode", ["mode", "hold"])):
        store.touch(setting)
        assert NvsStore(Nvs(nvs.kept)).touched() == touched
    assert nvs.commits == 2  # not again for what is known
    store.heard()
    store.heard()
    assert nvs.commits == 3 and NvsStore(Nvs(nvs.kept)).touched() == []
