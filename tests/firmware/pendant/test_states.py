"""The table of states, walked through entirely."""

from pendant import states

# Written from the design, not from the table: state, event, next state, action.
EXPECTED = """
asleep press recording record
asleep tap tapped -
asleep wake idle rest
idle press recording record
idle due sending send
idle sleep asleep sleep
recording release storing stop
recording tap tapped drop
recording limit storing stop
recording empty storing stop
recording refused storing store
tapped press doubled record
tapped alone storing store
doubled release storing stop
doubled tap hands-free -
doubled limit storing stop
doubled empty storing stop
doubled refused storing store
hands-free press ending -
hands-free limit storing stop
hands-free empty storing stop
hands-free refused storing store
ending tap storing stop
ending release storing stop
ending limit storing stop
ending empty storing stop
ending refused storing store
storing press recording record
storing stored sending send
sending press recording record
sending sent idle rest
sending failed idle rest
sending empty idle leave
"""


def test_every_state_and_event():
    expected = {}
    for line in EXPECTED.strip().split("\n"):
        state, event, after, action = line.split()
        expected[state, event] = (after, None if action == "-" else action)
    for state in states.STATES:
        for event in states.EVENTS:
            assert states.after(state, event) == expected.get((state, event), (state, None)), (state, event)
    assert {action for _, action in expected.values() if action} == set(states.ACTIONS)
    assert {event for _, event in expected} == set(states.EVENTS)
    assert {state for state, _ in expected} == set(states.STATES)


def walk(state, *events):
    """(state, actions) after these events."""
    actions = []
    for event in events:
        state, action = states.after(state, event)
        if action:
            actions.append(action)
    return state, actions


def test_the_button_always_wins():
    """After any press, in whatever state, the microphone is being recorded."""
    for state in states.STATES:
        assert states.after(state, "press")[0] in states.RECORDING, state


def test_hold_in_every_state_ends_in_one_note():
    for state in states.STATES:
        after, actions = walk(state, "press", "release")
        assert after == "storing" and actions[-1] == "stop" and actions.count("stop") == 1, state


def test_a_tap_records_nothing_and_sends():
    for state in ("asleep", "idle", "storing", "sending"):
        after, actions = walk(state, "press", "tap")
        assert after == "tapped" and actions == ["record", "drop"], state
    assert walk("tapped", "alone", "stored") == ("sending", ["store", "send"])


def test_a_double_tap_records_until_the_next_tap():
    for state in ("asleep", "idle", "storing", "sending"):
        after, actions = walk(state, "press", "tap", "press", "tap")
        assert after == "hands-free" and actions == ["record", "drop", "record"], state
    assert walk("hands-free", "press", "tap") == ("storing", ["stop"])
    assert walk("hands-free", "press", "release") == ("storing", ["stop"])  # held: to the end of that


def test_a_recording_ends_for_no_other_reason():
    for state in states.RECORDING:
        for event in states.EVENTS:
            if states.after(state, event)[0] not in states.RECORDING:
                assert event in ("release", "tap", "limit", "refused", "empty"), (state, event)


def test_no_talk_begins_or_goes_on_while_recording():
    for state in states.RECORDING + ("tapped",):
        for event in states.EVENTS:
            assert states.after(state, event)[1] != "send", (state, event)
    for event in states.EVENTS:  # the only ways from talking to recording is one that leaves the talk
        after, action = states.after("sending", event)
        assert after == "sending" or action in ("record", "rest", "leave"), event


def test_sleep_only_when_there_is_nothing_to_do():
    for state in states.STATES:
        for event in states.EVENTS:
            after, action = states.after(state, event)
            if state != "asleep" and after == "asleep":
                assert (state, event, action) == ("idle", "sleep", "sleep")


def test_every_state_leads_everywhere():
    for state in states.STATES:
        seen, reached = {state}, [state]
        while reached:
            for event in states.EVENTS:
                after = states.after(reached[0], event)[0]
                if after not in seen:
                    seen.add(after)
                    reached.append(after)
            del reached[0]
        assert seen == set(states.STATES), state


def test_unknown_names_are_refused():
    for state, event in (("idle", "pres"), ("awake", "press")):
        try:
            states.after(state, event)
        except KeyError:
            continue
        raise AssertionError((state, event))
