"""One Hypothesis strategy an op kind: valid small cases, as far as the kernels of both runtimes go."""

from collections.abc import Mapping

from hypothesis.strategies import SearchStrategy

from tests.oracles.gradient_check import Case
from tests.properties.strategies import elementwise, places, pooling, products

STRATEGIES: Mapping[str, SearchStrategy[Case]] = {
    **products.STRATEGIES,
    **elementwise.STRATEGIES,
    **pooling.STRATEGIES,
    **places.STRATEGIES,
}
