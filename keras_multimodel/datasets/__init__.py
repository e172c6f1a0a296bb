"""The real data that ships with the library, and readers of what users have.

May import `data`.
"""

from keras_multimodel.datasets.corpora.audio_folder import audio_folder as audio_folder
from keras_multimodel.datasets.corpora.captions import caption_folder as caption_folder
from keras_multimodel.datasets.corpora.captions import npz_pairs as npz_pairs
from keras_multimodel.datasets.corpora.image_folder import image_classes as image_classes
from keras_multimodel.datasets.corpora.image_folder import image_folder as image_folder
from keras_multimodel.datasets.corpora.penn_treebank import penn_treebank as penn_treebank
from keras_multimodel.datasets.corpora.tfds import coco_captions as coco_captions
from keras_multimodel.datasets.corpora.tfds import imagenet2012 as imagenet2012
from keras_multimodel.datasets.corpora.tfds import librispeech as librispeech
from keras_multimodel.datasets.corpora.tfds import wmt14_translate as wmt14_translate
from keras_multimodel.datasets.corpora.tsv_pairs import tsv_pairs as tsv_pairs
from keras_multimodel.datasets.load import DatasetInfo as DatasetInfo
from keras_multimodel.datasets.load import emoji_table as emoji_table
from keras_multimodel.datasets.load import info as info
from keras_multimodel.datasets.load import load as load
from keras_multimodel.datasets.load import names as names
