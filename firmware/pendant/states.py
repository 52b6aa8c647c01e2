"""The pendant's states as one table. Pure: the application looks up what to do and does it.

States
    idle        nothing to do
    recording   the button is held; nothing else is done meanwhile, no flash is written, no connection made
    storing     recordings go from memory to flash
    sending     stored notes go to the server
Events
    press, release   of the button
    limit            the recording has no room left
    refused          there was no room to begin with
    due              it is time to talk to the server
    stored           nothing recorded is in memory alone any more, or what is cannot be stored now
    sent, failed     the talk with the server has ended
Actions
    record      begin; storing pauses where it is, sending is left at its offset
    stop        end the recording, go on storing (a tap's recording is dropped)
    store       go on storing
    send        begin talking to the server
    rest        nothing is left to do
"""

STATES = ("idle", "recording", "storing", "sending")
EVENTS = ("press", "release", "limit", "refused", "due", "stored", "sent", "failed")
ACTIONS = ("record", "stop", "store", "send", "rest")

# state: {event: (next state, action)}. What is not listed changes nothing: a `stored`, `sent` or `failed` that was
# overtaken by a press, a second `press` without a `release`, a `due` while there is something better to do.
_TABLE = {
    "idle": {
        "press": ("recording", "record"),
        "due": ("sending", "send"),
    },
    "recording": {
        "release": ("storing", "stop"),
        "limit": ("storing", "stop"),
        "refused": ("storing", "store"),
    },
    "storing": {
        "press": ("recording", "record"),
        "stored": ("sending", "send"),
    },
    "sending": {
        "press": ("recording", "record"),
        "sent": ("idle", "rest"),
        "failed": ("idle", "rest"),
    },
}


def after(state: str, event: str) -> tuple:
    """(next state, action or None). KeyError for a name that is none of the above."""
    if event not in EVENTS:
        raise KeyError(event)
    return _TABLE[state].get(event, (state, None))
