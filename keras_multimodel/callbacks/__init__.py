"""Callbacks for `fit`: resume a training run, watch the experts, measure the wait for input.

May import models and everything below them.
"""

from keras_multimodel.callbacks.expert_use import ExpertUse as ExpertUse
from keras_multimodel.callbacks.expert_use import expert_use as expert_use
from keras_multimodel.callbacks.input_wait import InputWait as InputWait
from keras_multimodel.callbacks.resume import Resume as Resume
