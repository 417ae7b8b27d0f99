"""What the formulas say, before anything is trained. Each function has a partner of the same name in `measure`.

m, n: users, items     d: factors     N: ratings     B: batch size     s1: the largest singular value
"""

import math


def prediction_std(n_factors: int, user_std: float, item_std: float) -> float:
    """Std of u . v for entries of mean 0 and these stds: sqrt(d) sU sV, in rating units.

    A sum of d independent products, each of variance sU^2 sV^2.
    """
    return math.sqrt(n_factors) * user_std * item_std
