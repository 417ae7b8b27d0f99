"""Generated problems, small enough to be written out as dense matrices; and the dense matrices."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

from mfkit import MatrixFactorization, Ratings


class Dense(NamedTuple):
    """R, W: (m, n), the ratings and where there are any; users, items, values: (N,)."""

    R: np.ndarray
    W: np.ndarray
    users: np.ndarray
    items: np.ndarray
    values: np.ndarray


@st.composite
def problems(draw, least: int = 1, square: bool = False) -> Ratings:
    """Ratings with tables of at least `least` rows, each side with rows that nobody rated; values in -8 ... 8."""
    m = draw(st.integers(least, 7))
    n = m if square else draw(st.integers(least, 7))
    cells = draw(st.lists(st.integers(0, m * n - 1), min_size=2 if m * n > 1 else 1, max_size=30, unique=True))
    values = draw(st.lists(st.integers(-64, 64), min_size=len(cells), max_size=len(cells)))
    users, items = np.divmod(cells, n)
    return Ratings(users, items, np.array(values) / 8, m, n)


@st.composite
def models(draw, ratings: Ratings, least: int = 0, **options) -> MatrixFactorization:
    """A float64 model of these ratings with every table, mean and scale drawn."""
    biases = draw(st.booleans())
    d = draw(st.integers(max(least, 0 if biases else 1), 3))
    given = {"mean": draw(st.integers(-4, 4)) / 2, "scale": draw(st.sampled_from([1.0, 0.25, 3.0]))} | options
    model = MatrixFactorization(ratings.n_users, ratings.n_items, d, biases=biases, **given).double()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def dense(ratings: Ratings) -> Dense:
    users, items, values = (column.numpy().copy() for column in ratings.columns)
    R, W = np.zeros((2, ratings.n_users, ratings.n_items))
    R[users, items], W[users, items] = values, 1
    return Dense(R, W, users, items, values.astype(float))


def tables(model: MatrixFactorization) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """U (m, d), V (n, d), b (m, 1), c (n, 1), copies; zeros for what the model has not."""
    found = []
    for name, rows in (("user", model.n_users), ("item", model.n_items)):
        for table, columns in ((f"{name}_factors", model.n_factors), (f"{name}_bias", 1)):
            part = getattr(model, table)
            found.append(np.zeros((rows, columns)) if part is None else part.weight.detach().double().numpy().copy())
    U, b, V, c = found
    return U, V, b, c


def all_predictions(model: MatrixFactorization) -> np.ndarray:
    """(m, n), in rating units."""
    U, V, b, c = tables(model)
    return model.mean.item() + model.scale.item() * (U @ V.T + b + c.T)
