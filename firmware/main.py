"""What the board runs at power-on: reads the configuration and starts the application that it names."""

import asyncio

from device import config

settings = config.load("/config.json")
board = config.load_board("/board.json")
if settings["app"] != board["app"]:
    raise config.ConfigError("app is %r, but this board is a %s" % (settings["app"], board["app"]))
app = __import__(settings["app"] + ".app", None, None, ("main",))
asyncio.run(app.main(settings, board))
