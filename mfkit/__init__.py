"""mfkit: why matrix factorization fails when it is re-implemented in PyTorch. Predict, measure, mend, recognise."""

from mfkit import figures, initializers, measure, predict
from mfkit.als import Posterior, fit_als, sample_posterior
from mfkit.clipping import clip_grad_norm_
from mfkit.config import TrainConfig
from mfkit.data import Ratings
from mfkit.doctor import diagnose
from mfkit.evaluate import rmse
from mfkit.losses import huber, mae, mse
from mfkit.model import MatrixFactorization
from mfkit.movielens import movielens
from mfkit.synthetic import synthetic
from mfkit.trainer import DivergenceError, History, train
from mfkit.tuning import tune

__version__ = "0.1.0"
