"""The builder: tasks and templates of blocks to one functional Keras model.

May import generation, weighting, losses, metrics, layers and ops.
"""

from keras_multimodel.models.multimodel import VARIANTS as VARIANTS
from keras_multimodel.models.multimodel import MultiModel as MultiModel
from keras_multimodel.models.multimodel import Variant as Variant
from keras_multimodel.models.task import Task as Task
