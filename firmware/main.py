"""What the board runs at power-on: reads the configuration and starts the application that it names."""

import asyncio
import gc

from device import config

# Collect early and often while modules are compiled: otherwise a small heap ends up in pieces too small for anything.
gc.threshold(16384)

settings = config.load("/config.json")
board = config.load_board("/board.json")
if settings["app"] != board["app"]:
    raise config.ConfigError("app is %r, but this board is a %s" % (settings["app"], board["app"]))
app = __import__(settings["app"] + ".app", None, None, ("main",))
asyncio.run(app.main(settings, board))
