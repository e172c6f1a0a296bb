"""One Keras 3 model for many tasks, built from layers that can be swapped.

`docs/architecture.md` shows how the folders depend on each other.
"""

from keras_multimodel import ablation as ablation
from keras_multimodel import callbacks as callbacks
from keras_multimodel import data as data
from keras_multimodel import datasets as datasets
from keras_multimodel import distribution as distribution
from keras_multimodel import evaluation as evaluation
from keras_multimodel import generation as generation
from keras_multimodel import layers as layers
from keras_multimodel import losses as losses
from keras_multimodel import metrics as metrics
from keras_multimodel import presets as presets
from keras_multimodel import tensor2tensor as tensor2tensor
from keras_multimodel import transfer as transfer
from keras_multimodel import visualization as visualization
from keras_multimodel import weighting as weighting
from keras_multimodel.models import VARIANTS as VARIANTS
from keras_multimodel.models import MultiModel as MultiModel
from keras_multimodel.models import Task as Task
