"""Ablation studies: variants x seeds -> one table with intervals, for any factory of a Keras model.

May import every folder but `transfer`, which stands on it.
"""

from keras_multimodel.ablation.cost import Cost as Cost
from keras_multimodel.ablation.cost import cost as cost
from keras_multimodel.ablation.intervals import Decision as Decision
from keras_multimodel.ablation.intervals import Difference as Difference
from keras_multimodel.ablation.intervals import decide as decide
from keras_multimodel.ablation.intervals import paired_difference as paired_difference
from keras_multimodel.ablation.intervals import seeds_needed as seeds_needed
from keras_multimodel.ablation.results import Results as Results
from keras_multimodel.ablation.study import Study as Study
