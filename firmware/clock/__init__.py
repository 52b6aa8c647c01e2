"""The clock. (This file makes it a package that tools/clock.py, a command of the same name, cannot hide.)"""
