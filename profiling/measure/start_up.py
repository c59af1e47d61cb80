"""`python -m profiling.measure.start_up`: what importing the device's command takes; JSON on stdout."""

import time


def import_adapt() -> str:
    """Import it in this process, which has loaded nothing yet."""
    started = time.perf_counter()
    import ondevice.adapt  # noqa: F401

    seconds = time.perf_counter() - started
    import json

    from ondevice.meter import read_resident

    metrics = {"import_seconds": seconds, "peak_bytes": read_resident().peak_bytes}
    return json.dumps({"metrics": metrics, "outcome": {}})


if __name__ == "__main__":
    print(import_adapt())
