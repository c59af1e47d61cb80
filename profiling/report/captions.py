"""What stands above the page's pictures, and what they say to those who do not see them."""

from __future__ import annotations

from collections.abc import Sequence

from profiling.report.answers import Confusion, accuracy
from profiling.report.reading import FinishedRun
from profiling.report.units import counted, mib, percent, seconds
from profiling.report.words import accuracies


def profile_caption(run: FinishedRun) -> str:
    """How to read the picture of all layers."""
    text = "The layers from input (top) to output (bottom); those that trained are orange."
    dashed = run.score_name and run.threshold is not None
    return f"{text} Scores from the dashed line on were picked." if dashed else text


def profile_alt(run: FinishedRun) -> str:
    """The picture of all layers for those who do not see it; so the others."""
    names = ", ".join(row.layer for row in run.chosen) or "none but the head"
    return f"The {len(run.report.selection.table)} layers from input to output. Trained beside the head: {names}."


def memory_caption(run: FinishedRun) -> str:
    """How to read the picture of the phases' memory."""
    text = (
        "Memory that the whole process took in each phase. The peak is exact; its two parts are the largest seen when "
        "sampled."
    )
    if not all(phase.reset for phase in run.report.phases):
        text += " This system does not reset the peak: each is the largest since the start."
    return text


def memory_alt(run: FinishedRun) -> str:
    """Peaks by phase."""
    each = (f"{phase.name} {mib(phase.peak_bytes)}" for phase in run.report.phases)
    predicted = ", ".join(f"{name} {mib(size)}" for name, size in run.predicted.items())
    return f"Peak memory by phase: {', '.join(each)}. Predicted: {predicted}."


def timeline_caption(run: FinishedRun) -> str:
    """Where the times are from."""
    if run.on_the_clock:
        return "From the run's events.jsonl; lines in training are the ends of epochs."
    return "There is no complete events.jsonl of this run: its phases are laid end to end."


def timeline_alt(run: FinishedRun) -> str:
    """How long each phase took."""
    return f"Phases in time: {', '.join(f'{span.name} {seconds(span.seconds)}' for span in run.spans)}."


def learning_alt(run: FinishedRun) -> str:
    """Losses and accuracies."""
    losses = ", ".join(f"{epoch.loss:.3g}" for epoch in run.report.epochs)
    return f"Mean loss by epoch: {losses}. Test accuracy: {accuracies(run)}."


def confusion_caption(run: FinishedRun, pairs: Sequence[Confusion], listed: int) -> str:
    """How to read the confusion matrix, or the list of pairs in its place."""
    if len(run.report.classes) <= listed:
        return (
            "A row is a class, and how its test images were answered: blue right, orange wrong, stronger for more of "
            "the class."
        )
    return f"Of {counted(len(pairs), 'pair')} that were confused, the worst: true class → answer, of its test images."


def comparison_alt(runs: Sequence[FinishedRun]) -> str:
    """What each run reached and took."""
    each = (
        f"{run.name} {percent(accuracy(run.report.after).value)}, {mib(run.report.peak_bytes)}, {seconds(run.seconds)}"
        for run in runs
    )
    return f"Test accuracy, peak memory and time: {'; '.join(each)}."
