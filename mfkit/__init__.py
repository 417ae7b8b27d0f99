"""mfkit: why matrix factorization fails when it is re-implemented in PyTorch. Predict, measure, mend, recognise."""

from typing import TYPE_CHECKING, Any

from mfkit import initializers, measure, predict
from mfkit.als import fit_als
from mfkit.clipping import clip_grad_norm_
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.doctor import diagnose
from mfkit.evaluate import rmse
from mfkit.gibbs import Posterior, sample_posterior
from mfkit.losses import huber, mae, mse
from mfkit.model import MatrixFactorization
from mfkit.movielens import movielens
from mfkit.synthetic import synthetic
from mfkit.trainer import DivergenceError, History, train

if TYPE_CHECKING:
    from mfkit.tuning import tune

load = MatrixFactorization.load

__version__ = "0.1.0"  # here alone; pyproject.toml reads it

__all__ = [
    "DivergenceError",
    "History",
    "MatrixFactorization",
    "Posterior",
    "Ratings",
    "TrainConfig",
    "clip_grad_norm_",
    "diagnose",
    "fit_als",
    "huber",
    "initializers",
    "load",
    "mae",
    "measure",
    "movielens",
    "mse",
    "predict",
    "rmse",
    "sample_posterior",
    "synthetic",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """`tune` on first use (PEP 562): Optuna takes a second to import, which only a search should cost."""
    if name == "tune":
        from mfkit.tuning import tune

        return tune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
