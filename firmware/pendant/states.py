"""The pendant's states as one table. Pure: the application looks up what to do and does it.

States
    asleep      light sleep, or just woken from light or deep sleep
    idle        awake, nothing to do
    recording   the button is held
    tapped      it was held for less than a tap; a second press may come that makes a double tap of it
    doubled     the second press of a double tap is held
    hands-free  recording, nothing is held
    ending      recording hands-free, the press that will end it is held
    storing     recordings go from memory to flash
    sending     stored notes go to the server
In RECORDING nothing is written to the flash, no network is joined, and no connection made; nor in `tapped`, for a
TLS handshake would hold up the second press.
Events
    press       of the button
    release     of a press that was longer than a tap
    tap         the end of a shorter one
    alone       no second press came in time
    limit       the recording has no room left
    refused     there was no room, or no battery, to begin with
    empty       the battery will not do any longer
    due         it is time to talk to the server
    stored      nothing recorded is in memory alone any more, or what is cannot be stored now
    sent, failed  the talk with the server has ended
    sleep       nothing will be to do for a while
    wake        the sleep ended by itself
Actions
    record      begin; storing pauses where it is, sending is left at its offset
    drop        end the recording and forget it
    stop        end the recording where the button was let go (if that was a tap: where it was pressed), and store it
    store       go on storing
    send        begin talking to the server
    rest        nothing is left to do
    sleep       until the button or the time
    leave       stop talking to the server
"""

RECORDING = ("recording", "doubled", "hands-free", "ending")
STATES = ("asleep", "idle", "tapped", "storing", "sending") + RECORDING
_OF_THE_BUTTON = ("press", "release", "tap", "alone")
EVENTS = _OF_THE_BUTTON + ("limit", "refused", "empty", "due", "stored", "sent", "failed", "sleep", "wake")
ACTIONS = ("record", "drop", "stop", "store", "send", "rest", "sleep", "leave")

# (state, event): (next state, action). What is not listed changes nothing: a `stored`, `sent` or `failed` that was
# overtaken by a press, a second `press` without a `release`, a `due` while there is something better to do.
_TABLE = {
    ("asleep", "press"): ("recording", "record"),
    ("asleep", "tap"): ("tapped", None),  # let go before anybody could look
    ("asleep", "wake"): ("idle", "rest"),
    ("idle", "press"): ("recording", "record"),
    ("idle", "due"): ("sending", "send"),
    ("idle", "sleep"): ("asleep", "sleep"),
    ("recording", "release"): ("storing", "stop"),
    ("recording", "tap"): ("tapped", "drop"),
    ("recording", "limit"): ("storing", "stop"),
    ("recording", "refused"): ("storing", "store"),
    ("recording", "empty"): ("storing", "stop"),
    ("tapped", "press"): ("doubled", "record"),
    ("tapped", "alone"): ("storing", "store"),
    ("doubled", "release"): ("storing", "stop"),
    ("doubled", "tap"): ("hands-free", None),
    ("doubled", "limit"): ("storing", "stop"),
    ("doubled", "refused"): ("storing", "store"),
    ("doubled", "empty"): ("storing", "stop"),
    ("hands-free", "press"): ("ending", None),
    ("hands-free", "limit"): ("storing", "stop"),
    ("hands-free", "refused"): ("storing", "store"),
    ("hands-free", "empty"): ("storing", "stop"),
    ("ending", "tap"): ("storing", "stop"),
    ("ending", "release"): ("storing", "stop"),
    ("ending", "limit"): ("storing", "stop"),
    ("ending", "refused"): ("storing", "store"),
    ("ending", "empty"): ("storing", "stop"),
    ("storing", "press"): ("recording", "record"),
    ("storing", "stored"): ("sending", "send"),
    ("sending", "press"): ("recording", "record"),
    ("sending", "sent"): ("idle", "rest"),
    ("sending", "failed"): ("idle", "rest"),
    ("sending", "empty"): ("idle", "leave"),
}


def after(state: str, event: str) -> tuple:
    """(next state, action or None). KeyError for a name that is none of the above."""
    if event not in EVENTS or state not in STATES:
        raise KeyError((state, event))
    return _TABLE.get((state, event), (state, None))
