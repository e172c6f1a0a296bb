from keras_multimodel.models.body import Body as Body
from keras_multimodel.models.command_token import CommandToken as CommandToken
from keras_multimodel.models.decoder import Decoder as Decoder
from keras_multimodel.models.encoder import Encoder as Encoder
from keras_multimodel.models.mixer import Mixer as Mixer
from keras_multimodel.models.multimodel import MultiModel as MultiModel
from keras_multimodel.models.multimodel_2017 import multimodel_2017 as multimodel_2017
from keras_multimodel.models.multimodel_2017_generation import generate_2017 as generate_2017
from keras_multimodel.models.task import Task as Task
from keras_multimodel.models.tensor2tensor_weights import (
    load_tensor2tensor_weights as load_tensor2tensor_weights,
)
from keras_multimodel.models.variants import VARIANTS as VARIANTS
from keras_multimodel.models.variants import Variant as Variant
