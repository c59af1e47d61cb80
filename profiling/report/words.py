"""The page's words on runs: what happened, why layers were picked, what phases do, how runs differ."""

from __future__ import annotations

from collections.abc import Sequence

from ondevice.ranking import BIAS, FROM_BETTI_NUMBERS, NAMED, WITHOUT_RHO
from ondevice.selection import Ranked, obstacle_note, pick_count
from profiling.report.answers import Confusion, Paired, accuracy
from profiling.report.reading import FinishedRun
from profiling.report.units import counted, interval, mib, percent, seconds

PHASES = {
    "open": "check bundle and images; give the network a head for these classes",
    "probe": "run a few batches of training images through it to measure its layers",
    "rank": "b1 of each layer from the distances between the images",
    "plan": "pick layers; predict what training them takes",
    "channels": "pick channels of the picked layers",
    "compile": "make the train graph for just these layers",
    "before": "test accuracy, untrained",
    "prefix": "run the part before the first trained layer once, keep its results on disk",
    "train": "train what lies behind",
    "export": "put the trained weights into the network",
    "evaluate": "test accuracy of the adapted file itself",
}
_REASONS = {
    "betti": "A layer is worth training where its activations hold much structure for their size. The training images' "
    "activations in a layer are a cloud of points, one an image; its first Betti number b1 counts the loops of that "
    "cloud. Layers are ranked by b1/|a|, |a| being the number of values that the layer puts out for one image "
    "(AdaBet, arXiv 2510.03101). That takes forward passes alone: no labels, no gradients.",
    "b1": "Layers are ranked by b1: the training images' activations in a layer are a cloud of points, one an image, "
    "and its first Betti number b1 counts the loops of that cloud. That is one half of AdaBet's score b1/|a|.",
    "inverse-size": "Layers are ranked by 1/|a|, |a| being the number of values that a layer puts out for one image: "
    "the smallest activations first. That is one half of AdaBet's score b1/|a|, and looks at no image.",
    "fisher": "Layers are ranked by Fisher information: how strongly the loss reacts to their activations, the mean of "
    "(a · ∂loss/∂a)²/2. Unlike AdaBet's b1 that needs labels and a backward pass through the whole network.",
    "random": "Layers were drawn at random by the seed: what a ranking has to beat.",
    "last": "The layers nearest to the output were taken, as in usual fine-tuning.",
    "first": "The layers nearest to the input were taken.",
    "all": "Every layer trained: the most that training can change, and the most that it can cost.",
    "head": "Only the head trained, the last layer, which names the classes; all else stayed as it was. "
    "That is the cheapest training, and what a choice of layers has to beat.",
    BIAS: "Of every layer only the biases trained, and the whole head.",
    NAMED: "The layers were named on the command line by --layers.",
}


def headline(run: FinishedRun) -> str:
    """The run in one line."""
    return f"{run.report.network} retrained on {run.data}: test accuracy {accuracies(run)}"


def accuracies(run: FinishedRun) -> str:
    """Test accuracy before and after."""
    return " → ".join(percent(accuracy(moment).value) for moment in (run.report.before, run.report.after))


def summary(run: FinishedRun) -> str:
    """What was done, and what it took."""
    report, chosen = run.report, len(run.chosen)
    criterion, layers = report.selection.criterion, len(report.selection.table)
    if criterion == BIAS:
        what = f"Of all {layers} layers the biases were retrained, and the whole head"
    elif chosen == layers - 1:
        what = f"All {layers} layers were retrained"
    elif not chosen:
        what = f"Of {layers} layers, only the head was retrained, the last"
    else:
        were = "was" if chosen == 1 else "were"
        what = f"Of {layers} layers, {chosen} {were} {_picked_by(criterion)}, and retrained with the head"
    return (
        f"{what}: {report.trained_parameters:,} parameters. It took {seconds(run.seconds)} and at most "
        f"{mib(report.peak_bytes)} of memory, everything included. The accuracy is on {report.after.images:,} test "
        "images that training never saw."
    )


def _picked_by(criterion: str) -> str:
    known = {
        "betti": "picked for having the most loops in their activations for their size",
        "b1": "picked for having the most loops in their activations",
        "inverse-size": "picked for having the smallest activations",
        "fisher": "picked by Fisher information",
        "random": "drawn at random",
        "last": "picked as nearest to the output",
        "first": "picked as nearest to the input",
        NAMED: "named",
    }
    return known.get(criterion, f"picked by {criterion}")


def reasons(run: FinishedRun) -> list[str]:
    """Why these layers, in paragraphs."""
    report, selection = run.report, run.report.selection
    criterion, table = selection.criterion, selection.table
    paragraphs = [_REASONS.get(criterion, f"The layers were picked by {criterion}.")]
    if criterion in FROM_BETTI_NUMBERS and (batches := max(len(row.b1_by_batch) for row in table)):
        paragraphs.append(
            f"Measured on {counted(batches, 'batch', 'batches')} of {report.settings.batch} training images; each dot "
            f"below is a batch, the bar their mean.{_ranges(run) if criterion == 'betti' else ''}"
        )
    if criterion not in WITHOUT_RHO:
        count = pick_count(selection.rho, len(table))
        paragraphs.append(
            f"ρ = {selection.rho:g}, the fraction of the layers to train, makes {count} of {len(table)}. "
            "The head trains always: the last layer, which names the classes."
        )
    if report.settings.rho_channels is not None and (some := [row for row in run.chosen if row.channels is not None]):
        paragraphs.append(
            f"Of {len(some)} of these layers only a fraction {report.settings.rho_channels:g} of the channels trained: "
            "those whose own activations have the largest b1."
        )
    if over := [row.layer for row in table if row.over_budget]:
        paragraphs.append(f"Passed over, for they do not fit the budget with better ones: {', '.join(over)}.")
    if note := obstacle_note([row.layer for row in table], selection.obstacles):
        paragraphs.append(note + ".")
    return paragraphs


def _ranges(run: FinishedRun) -> str:
    """How far b1 and |a| vary from layer to layer, and so how much each of them decides."""
    b1, sizes = [row.b1 or 0.0 for row in run.body], [row.activation_size for row in run.body]
    text = f" Here b1 lies between {min(b1):.1f} and {max(b1):.1f}, |a| between {min(sizes):,} and {max(sizes):,}"
    if min(b1) <= 0:
        return f"{text}."
    by_b1, by_size = max(b1) / min(b1), max(sizes) / min(sizes)
    decides = "|a|" if by_size > by_b1 else "b1"
    return f"{text}: factors of {by_b1:.1f} and {by_size:.1f}, so {decides} decides more."


def cost(run: FinishedRun) -> str:
    """Memory and time of training in words, beside the prediction."""
    training = next(phase for phase in run.report.phases if phase.name == "train")
    text = (
        f"Training took {seconds(training.seconds)} of the {seconds(run.seconds)}, and {mib(training.peak_bytes)} at "
        f"its peak; {mib(run.report.plan.train_bytes)} were predicted before it began."
    )
    if run.heaviest is not training:
        text += f" The most memory was taken by the phase “{run.heaviest.name}”, {mib(run.heaviest.peak_bytes)}."
    if (budget := run.report.settings.budget_bytes) is not None:
        text += f" The budget was {mib(budget)}."
    return text


def gain(run: FinishedRun) -> str:
    """Accuracy before and after in words, with intervals, and the images behind it."""
    report = run.report
    before, after = accuracy(report.before), accuracy(report.after)
    low, high = before.interval
    guessing = ", as good as guessing," if low <= 1 / len(report.classes) <= high else ""
    text = (
        f"Of {after.of:,} test images, {before.count:,} were answered right before{guessing} and {after.count:,} after."
    )
    if run.knows_answers:
        change = Paired.of(run.labels, run.answers_before, run.answers)
        text += (
            f" Training turned {counted(change.only_second, 'wrong answer')} right, and "
            f"{counted(change.only_first, 'right answer')} wrong."
        )
    return (
        f"{text} On other images of the same kind, expect an accuracy within {interval(after)} "
        "(Wilson's 95\N{NO-BREAK SPACE}% interval for so many test images)."
    )


def fate(run: FinishedRun, row: Ranked) -> str:
    """What is to be said of a layer beside its figures, in a few words."""
    if row.layer == run.head.layer:
        return "the head"
    if row.channels is not None:
        return counted(len(row.channels), "channel")
    return f"cannot train: {row.obstacle}" if row.obstacle else "over budget" if row.over_budget else ""


def mistakes(run: FinishedRun, pairs: Sequence[Confusion]) -> str:
    """Which classes are confused most."""
    if not pairs:
        return "Every test image was answered right."
    names = run.report.classes
    most = (
        f"{names[pair.label]} answered as {names[pair.answer]} ({pair.share.count} of {pair.share.of})"
        for pair in pairs[:3]
    )
    return f"Most often: {', '.join(most)}."


def training_time(run: FinishedRun) -> str:
    """How much of the time was training."""
    took = sum(phase.seconds for phase in run.report.phases if phase.name == "train")
    return f"{counted(len(run.report.epochs), 'epoch')} in {seconds(took)}"


def several(runs: Sequence[FinishedRun]) -> str:
    """Several runs in one line."""
    return f"{len(runs)} runs side by side: {', '.join(run.name for run in runs)}"


def verdict(first: str, second: str, counts: Paired) -> str:
    """What the answers of two runs to the same images say of their difference."""
    images = counts.both + counts.only_first + counts.only_second + counts.neither
    text = (
        f"{first} and {second} on the same {images:,} test images: {counts.both:,} both right, {counts.only_first:,} "
        f"only {first}, {counts.only_second:,} only {second}, {counts.neither:,} neither."
    )
    if counts.only_first == counts.only_second:
        return f"{text} Equally many are right."
    better = first if counts.only_first > counts.only_second else second
    p = (
        f"p {counts.p_value:.2g}, McNemar's exact test"
        if counts.p_value >= 1e-4
        else "p < 0.0001, McNemar's exact test"
    )
    if counts.p_value < 0.05:
        return f"{text} {better} is ahead by more than chance explains ({p})."
    return f"{text} {better} is ahead, but chance alone may do that ({p})."


def not_comparable(first: FinishedRun, second: FinishedRun) -> str:
    """Why there is no such verdict."""
    if first.knows_answers and second.knows_answers:
        return f"{first.name} and {second.name} were tested on other images, so they are not compared image by image."
    return (
        f"{first.name} and {second.name} are not compared image by image: a report of an older version does not keep "
        "the answers."
    )
