"""Callbacks for `fit`: progress by task, resuming, divergence, use of experts, wait for input.

May import models and everything below them.
"""

from keras_multimodel.callbacks.divergence import StopOnDivergence as StopOnDivergence
from keras_multimodel.callbacks.expert_use import ExpertUse as ExpertUse
from keras_multimodel.callbacks.expert_use import expert_use as expert_use
from keras_multimodel.callbacks.input_wait import InputWait as InputWait
from keras_multimodel.callbacks.resume import Resume as Resume
from keras_multimodel.callbacks.task_board import TaskBoard as TaskBoard
from keras_multimodel.callbacks.task_table import TaskTable as TaskTable
from keras_multimodel.callbacks.tensorboard import TensorBoardLog as TensorBoardLog
