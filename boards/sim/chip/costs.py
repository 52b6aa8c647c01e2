"""What the real chip would pay for what costs the simulator nothing, in one table.

Times are in microseconds unless the name says otherwise. A figure marked [est] is an estimate; the others were measured
on boards by people who published them (see docs/simulator.md for each source). Change a line, or hand the
simulated board `costs={...}`, and see what follows.
"""

COSTS = {
    # A TLS 1.2 handshake with P-256 holds the interpreter for most of a second on an ESP32-S3 at 240 MHz.
    "tls_handshake_us": 800_000,
    # Raw partition: erase of a 4 KiB sector; program of up to one 256-byte page (caches off, all tasks stopped).
    "flash_erase_us": 45_000,
    "flash_program_us": 300,
    # LittleFS on the vfs partition writes about 100 kB/s in 4 kB blocks: the erase of a block and its programming.
    "littlefs_erase_us": 30_000,
    "littlefs_program_ns_per_byte": 2_500,
    # Committing a namespace of NVS: a few page programs and now and then an erase [est].
    "nvs_commit_us": 3_000,
    # Explicit garbage collection without PSRAM; automatic collections cannot be seen from here.
    "gc_collect_us": 6_000,
    # asyncio sleeps in FreeRTOS ticks: a sleeping loop wakes up 0 to this much late, uniformly [est].
    "wake_jitter_us": 10_000,
    # From the wake-up in deep sleep, or power-on, to the first line of main.py.
    "boot_us": 400_000,
    # From the wake-up in light sleep to the next line of the program [est].
    "light_sleep_wake_us": 2_000,
    # INMP441: 2^18 clock cycles at 1.024 MHz before samples are valid.
    "microphone_startup_us": 256_000,
    # Association and DHCP.
    "wifi_connect_us": 1_600_000,
    # Looking for networks on 13 channels [est]; other threads run meanwhile.
    "wifi_scan_us": 2_000_000,
    # A name that resolves, and one that does not: both hold the interpreter.
    "dns_us": 30_000,
    "dns_failure_us": 5_000_000,
    # A radio that has been idle for a tenth of a second sleeps between beacons: the first answer waits 0 to this [est].
    "radio_wake_us": 200_000,
}
