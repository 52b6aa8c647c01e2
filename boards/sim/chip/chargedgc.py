"""`gc`, with explicit collections charged to the clock."""

import gc as _host

from .clock import clock

mem_free = _host.mem_free
mem_alloc = _host.mem_alloc
enable = _host.enable
disable = _host.disable
isenabled = _host.isenabled
threshold = _host.threshold


def collect():
    clock.spend(clock.costs["gc_collect_us"])
    return _host.collect()
