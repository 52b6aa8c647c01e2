#!/usr/bin/env python3
"""The clock on your desk: what its modes plan, how they look, years of it in virtual time, and a movement calibrated.

python tools/clock.py plan --mode vetinari --minutes 3 --seed 1
python tools/clock.py plot --mode all --out modes.svg
python tools/clock.py simulate --help
python tools/clock.py calibrate --help
"""

from subcommands import script

COMMANDS = {
    "plan": ("clock_plan", "print the ticks of some minutes, a JSON list of 60 integers (ms) for each"),
    "plot": ("clock_plot", "draw the modes, hand against true time, as SVG"),
    "simulate": ("clock_simulation", "run the firmware's core through days of trouble in virtual time"),
    "calibrate": ("clock_calibration", "find the pulse that a movement needs"),
}

if __name__ == "__main__":
    script("clock.py", (__doc__ or "").split("\n\n")[0], COMMANDS)
