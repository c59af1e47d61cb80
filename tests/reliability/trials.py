"""What is done to a run, and what has to hold afterwards."""

from __future__ import annotations

import errno
import signal
from collections import Counter
from functools import partial
from random import Random

from tests.reliability.lab import Fault, Lab, ended, kill_after, wait_for

FAULTS = tuple(
    partial(Fault, error=error, sticky=sticky)
    for error, sticky in ((errno.ENOSPC, False), (errno.EROFS, False), (errno.EIO, False), (errno.ENOSPC, True))
)
"""By the operation at which they strike."""
LIFE_S = 2.0
"""About as long as a whole run takes, at a busy time."""


def operations(lab: Lab) -> list[str]:
    """Kind and path of every operation on files of an undisturbed run, in order."""
    trial, trace = lab.fresh(), lab.folder / "trace"
    trace.unlink(missing_ok=True)
    assert trial.start(trace=trace).code == 0
    trial.finish()
    return [line.replace(f"{trial.folder}/", "") for line in trace.read_text().splitlines()]


def kill_and_go_on(lab: Lab, at: int) -> Counter[str]:
    """Kill a run at a file operation; at most one step is made twice."""
    trial = lab.fresh()
    killed = trial.start(Fault(at))
    assert killed.code in (-signal.SIGKILL, 0), killed.stderr  # 0: this time there were fewer operations
    twice = trial.finish()
    assert twice <= 1
    return Counter({"kills at a file operation": 1, "steps made twice": twice})


def kill_at_random(lab: Lab, random: Random) -> Counter[str]:
    """Kill a run, and sometimes the one that goes on with it, at any moment."""
    trial, kills = lab.fresh(), 0
    arguments = trial.arguments
    while kills == 0 or random.random() < 0.3:
        with trial.process(arguments) as process:
            killed = kill_after(process, random.uniform(0.0, LIFE_S))
        if killed.code == 0:
            break
        assert killed.code == -signal.SIGKILL, killed.stderr
        kills += 1
        if any((trial.run / name).exists() for name in ("work/request.json", "finished", "report.json")):
            arguments = ["--resume", str(trial.run)]
    twice = trial.finish()
    assert twice <= kills
    return Counter(
        {"kills at random": kills, "runs that ended before their kill": not kills, "steps made twice": twice}
    )


def fail_and_go_on(lab: Lab, fault: Fault) -> Counter[str]:
    """Let one file operation fail: the command says so, or ended well where nothing depended on it."""
    trial = lab.fresh()
    failed = trial.start(fault)
    assert failed.code in (0, 7), failed.stderr
    assert "Traceback" not in failed.stderr, failed.stderr
    if failed.code:
        assert [line.startswith("error: ") for line in failed.stderr.splitlines()].count(True) == 1, failed.stderr
    assert trial.finish() <= 1
    return Counter({"failures that were reported" if failed.code else "failures that did no harm": 1})


def interrupt(lab: Lab, signum: signal.Signals, phase: str) -> None:
    """Send a signal when a phase starts: exit code 5 and what to do, and a run that goes on."""
    trial = lab.fresh()
    with trial.process(trial.arguments) as process:
        wait_for(trial.run, "events.jsonl", f'"phase": "{phase}"')
        process.send_signal(signum)
        stopped = ended(process)
    assert stopped.code == 5, stopped.stderr
    assert stopped.stderr.splitlines()[-1].endswith(f"`python -m ondevice.adapt --resume {trial.run}` goes on with it")
    assert "Traceback" not in stopped.stderr
    assert trial.finish() <= 1
