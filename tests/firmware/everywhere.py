"""Runs one test file of the firmware under MicroPython: `micropython everywhere.py TEST_FILE FOLDER_OF_FIRMWARE`.

Each function of the file whose name begins with `test_` is called without arguments. Prints one line a test; exit
status 1 if any failed, 2 if there was none.
"""

import sys

path, firmware = sys.argv[1:3]
sys.path[0:1] = [firmware, path.rsplit("/", 1)[0]]
names = {"__name__": "tests", "__file__": path}
with open(path) as source:
    exec(compile(source.read(), path, "exec"), names)
failed = ran = 0
for name in sorted(names):
    if name.startswith("test_"):
        ran += 1
        try:
            names[name]()
            print("passed", name)
        except Exception as error:
            failed += 1
            print("FAILED", name)
            sys.print_exception(error)
sys.exit(1 if failed else 0 if ran else 2)
