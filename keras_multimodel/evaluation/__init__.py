"""Baselines that a trained model is compared with.

May import `data`, and no layer or model.
"""

from keras_multimodel.evaluation.baselines import Baseline as Baseline
from keras_multimodel.evaluation.baselines import mismatched as mismatched
from keras_multimodel.evaluation.baselines import unigram_baseline as unigram_baseline
