#!/usr/bin/env python3
"""The pendant on your desk: what it does through presses, outages, a server that misbehaves, and cuts of power.

python tools/pendant.py encode IN.wav OUT.wav
python tools/pendant.py plot NOTE.wav --out FILE.svg
python tools/pendant.py simulate --sequences 20 --faults 1
"""

from subcommands import script

COMMANDS = {
    "encode": ("pendant_encode", "run a sound file through the firmware's capture path and encoder, into a note"),
    "plot": ("pendant_plot", "draw a note's level over time, with gaps and clipping, as SVG"),
    "simulate": ("pendant_simulation", "press, break and cut at random, and count what became of each note"),
}

if __name__ == "__main__":
    script("pendant.py", (__doc__ or "").split("\n\n")[0], COMMANDS)
