"""What the board runs at power-on: chooses the folder of the firmware, and starts the application.

This file is never updated over the air. It begins the trial of a new version and goes back from one that fails: by an
exception, by the watchdog, by too many restarts, or because ten minutes later no check-in had been answered.
What `/active` holds is said in `device/update.py`.
"""

import asyncio
import gc
import json
import os
import sys

TRIAL_MS = 600_000
TRIES = 3  # a cut of power must not condemn a good version; a version that cuts itself must not go on for ever
BUSY_MS = 5_000  # to wait with the end of a trial while the application is busy
BUSY_TIMES = 132  # 11 minutes: as long as a recording and its storing may take
WATCHDOG_MS = 120_000  # of a trial, until the new version arms its own

_app = None  # the application's module, when it runs; its function `busy`, if it has one, is asked before a reset


def read(root: str) -> dict:
    """The state in `active`; {} where there is none."""
    try:
        with open(root + "/active") as file:
            state = json.load(file)
    except (OSError, ValueError):  # none yet: the modules are in the root
        return {}
    return state if isinstance(state, dict) else {}


def keep(root: str, state: dict) -> None:
    """Replace the state by one rename."""
    with open(root + "/active.new", "w") as file:
        json.dump(state, file)
    os.rename(root + "/active.new", root + "/active")


def choose(root: str, by_watchdog: bool):
    """At each start: (folder to run: "a", "b" or "" for the root; whether this is a trial).

    root: the file system's root, without a slash at its end. by_watchdog: the watchdog ended the last run.
    """
    state = read(root)
    folder = state.get("active", "")
    if "trial" not in state:
        return folder, False
    tries = state.get("tries", 0)
    try:
        if tries >= TRIES or (tries and by_watchdog):
            give_up(root)
            return folder, False
        state["tries"] = tries + 1
        keep(root, state)
    except OSError as error:  # no room: a trial that is not counted might never end
        print("error: the trial of an update cannot be counted, and is put off:", error)
        return folder, False
    return state["trial"], True


def give_up(root: str) -> bool:
    """Go back to the old version at the next start, and remember the new one as failed. False: no trial is on."""
    state = read(root)
    if "trial" not in state:
        return False
    keep(root, {"active": state.get("active", ""), "failed": state.get("version", "")})
    return True


def busy() -> bool:
    """Whether the application says that a reset would lose something now."""
    try:
        return bool(_app.busy())
    except Exception:  # it does not run, has nothing to say, or is broken, which is why its trial ends
        return False


def start() -> None:
    """Reads the configuration and runs the application that it names. What is called here must be in every version."""
    global _app
    from device import config

    # Collect early and often while modules are compiled: otherwise a small heap ends up in pieces too small for use.
    gc.threshold(16384)
    settings = config.load("/config.json", "/settings.json")
    board = config.load_board("/board.json")
    if settings["app"] != board["app"]:
        raise config.ConfigError("app is %r, but this board is a %s" % (settings["app"], board["app"]))
    _app = __import__(settings["app"] + ".app", None, None, ("main",))
    asyncio.run(_app.main(settings, board))


def run() -> None:
    import machine

    left = BUSY_TIMES

    def fail(timer):
        nonlocal left
        if timer is not None and left and busy():
            left -= 1
            timer.init(mode=machine.Timer.ONE_SHOT, period=BUSY_MS, callback=fail)
            return
        try:
            ended = give_up("")
        except OSError as error:  # the tries are counted: the last of them ends it
            print("error: the end of a trial could not be kept:", error)
            ended = True
        if ended:
            machine.reset()

    folder, trial = choose("", machine.reset_cause() == machine.WDT_RESET)
    if folder:
        sys.path.insert(0, "/" + folder)
    if trial:
        machine.WDT(timeout=WATCHDOG_MS)
        machine.Timer(0, mode=machine.Timer.ONE_SHOT, period=TRIAL_MS, callback=fail)
    try:
        start()
    except BaseException as error:
        if trial and not isinstance(error, KeyboardInterrupt):  # which is somebody at the cable
            sys.print_exception(error)
            fail(None)
        raise


if __name__ == "__main__":
    run()
