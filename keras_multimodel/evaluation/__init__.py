"""Measures of a trained model, and baselines that it is compared with.

May import `data`, and no layer or model.
"""

from keras_multimodel.evaluation.baselines import Baseline as Baseline
from keras_multimodel.evaluation.baselines import mismatched as mismatched
from keras_multimodel.evaluation.baselines import unigram_baseline as unigram_baseline
from keras_multimodel.evaluation.corpus import bracket_f1 as bracket_f1
from keras_multimodel.evaluation.corpus import error_rates as error_rates
from keras_multimodel.evaluation.corpus import evaluate as evaluate
from keras_multimodel.evaluation.corpus import text_measures as text_measures
