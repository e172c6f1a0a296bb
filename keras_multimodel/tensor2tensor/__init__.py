"""The authors' model of 2017 and a reader of its checkpoints.

May import layers and data; nothing in the package imports it.
"""

from keras_multimodel.tensor2tensor.multimodel_2017 import generate_2017 as generate_2017
from keras_multimodel.tensor2tensor.multimodel_2017 import multimodel_2017 as multimodel_2017
from keras_multimodel.tensor2tensor.weights import (
    load_tensor2tensor_weights as load_tensor2tensor_weights,
)
