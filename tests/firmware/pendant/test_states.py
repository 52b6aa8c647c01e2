"""The table of states, walked through entirely."""

from pendant import states

# Written from the design, not from the table: state, event, next state, action.
EXPECTED = """
idle press recording record
idle due sending send
recording release storing stop
recording limit storing stop
recording refused storing store
storing press recording record
storing stored sending send
sending press recording record
sending sent idle rest
sending failed idle rest
"""


def test_every_state_and_event():
    expected = {}
    for line in EXPECTED.strip().split("\n"):
        state, event, after, action = line.split()
        expected[state, event] = (after, action)
    for state in states.STATES:
        for event in states.EVENTS:
            assert states.after(state, event) == expected.get((state, event), (state, None)), (state, event)
    assert {action for _, action in expected.values()} == set(states.ACTIONS)


def test_the_button_always_wins():
    for state in states.STATES:
        assert states.after(state, "press")[0] == "recording"


def test_recording_ends_only_by_the_button_the_limit_or_a_refusal():
    for event in states.EVENTS:
        left = states.after("recording", event)[0] != "recording"
        assert left == (event in ("release", "limit", "refused")), event


def test_every_state_leads_back_to_idle():
    for state in states.STATES:
        seen, reached = {state}, [state]
        while reached:
            for event in states.EVENTS:
                after = states.after(reached[0], event)[0]
                if after not in seen:
                    seen.add(after)
                    reached.append(after)
            del reached[0]
        assert "idle" in seen and "recording" in seen


def test_unknown_names_are_refused():
    for state, event in (("idle", "pres"), ("asleep", "press")):
        try:
            states.after(state, event)
        except KeyError:
            continue
        raise AssertionError((state, event))
