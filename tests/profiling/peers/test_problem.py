from __future__ import annotations

from pathlib import Path

import numpy as np

from profiling.peers.problem import read_images, read_network, read_problem, rows_and_rates
from signatures.layers import find_layers
from signatures.subset import subset_of


def test_a_problem_is_read_as_it_was_written(folder: Path) -> None:
    problem, split = read_problem(folder), read_images(folder)
    assert split.images.shape == (problem.images, 16, 16, 3)
    assert set(split.labels) == {0, 1, 2}
    graph = read_network(problem)
    assert graph.outputs[0].shape == (1, 3)
    assert subset_of(find_layers(graph), problem.layers).names == problem.layers


def test_every_epoch_takes_each_image_once(folder: Path) -> None:
    problem = read_problem(folder)
    steps = list(rows_and_rates(problem))
    assert len(steps) == problem.epochs * problem.steps_an_epoch
    for first in range(0, len(steps), problem.steps_an_epoch):
        epoch = np.concatenate([rows for rows, _ in steps[first : first + problem.steps_an_epoch]])
        assert sorted(epoch) == list(range(problem.images))
