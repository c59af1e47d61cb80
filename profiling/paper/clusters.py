"""Clusters of the images at a layer: DBSCAN on a UMAP of its activations, as figure 3 of arXiv 2510.03101 has them.

UMAP takes the distances between the images, which are all that it uses of the activations, and which probing finds
without holding activations. Both have the default settings of umap-learn and scikit-learn.
"""

from __future__ import annotations

import importlib
import warnings

import numpy as np
from numpy.typing import NDArray

from converter.quiet import captured_stderr
from profiling.needs import need_packages
from signatures.errors import InputError

PACKAGES = {"umap": "umap-learn", "sklearn": "scikit-learn"}
"""Module → package."""
EMBEDDINGS = 4
"""UMAPs of each layer, from seeds 0, 1, …: an embedding depends on chance."""


def cluster_counts(squared: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many clusters there are in each embedding, int64 [embeddings, layers]; points in none are not counted.

    `squared`: squared distances float64 [layers, B, B] between B images. Raises InputError where they are no numbers.
    """
    with captured_stderr():  # umap imports TensorFlow where there is one
        umap, cluster = importlib.import_module("umap"), importlib.import_module("sklearn.cluster")
    if not np.isfinite(squared).all():
        raise InputError("the activations of the network are not finite: there is nothing to cluster")
    found = np.zeros((EMBEDDINGS, len(squared)), np.int64)
    for layer, distances in enumerate(np.sqrt(squared)):
        for seed in range(EMBEDDINGS):
            with warnings.catch_warnings():  # of precomputed distances: an embedding cannot be inverted
                warnings.simplefilter("ignore", UserWarning)
                points = umap.UMAP(metric="precomputed", random_state=seed, n_jobs=1).fit_transform(distances)
            found[seed, layer] = len(set(cluster.DBSCAN().fit_predict(points)) - {-1})
    return found


def check_packages() -> None:
    """Raise CapabilityError where packages are missing."""
    need_packages("clusters", PACKAGES)
