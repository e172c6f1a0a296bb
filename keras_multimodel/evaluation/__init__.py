from keras_multimodel.evaluation.baselines import Baseline as Baseline
from keras_multimodel.evaluation.baselines import mismatched as mismatched
from keras_multimodel.evaluation.baselines import unigram_baseline as unigram_baseline
