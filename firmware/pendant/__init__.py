"""The pendant. (This file makes it a package that tools/pendant.py, a command of the same name, cannot hide.)"""
