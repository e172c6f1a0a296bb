from keras_multimodel.datasets.info import DatasetInfo as DatasetInfo
from keras_multimodel.datasets.info import info as info
from keras_multimodel.datasets.info import names as names
from keras_multimodel.datasets.load import load as load
