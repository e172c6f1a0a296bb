from keras_multimodel.data import schedules as schedules
from keras_multimodel.data.audio import AudioPreprocessor as AudioPreprocessor
from keras_multimodel.data.audio import WaveformPreprocessor as WaveformPreprocessor
from keras_multimodel.data.augment import augment as augment
from keras_multimodel.data.bad_example import BadExample as BadExample
from keras_multimodel.data.bad_example_error import BadExampleError as BadExampleError
from keras_multimodel.data.bad_examples import BadExamples as BadExamples
from keras_multimodel.data.category import CategoryPreprocessor as CategoryPreprocessor
from keras_multimodel.data.data_report import DataReport as DataReport
from keras_multimodel.data.encode import encode as encode
from keras_multimodel.data.image import ImagePreprocessor as ImagePreprocessor
from keras_multimodel.data.image_augment import ImageAugment as ImageAugment
from keras_multimodel.data.mixture import batch as batch
from keras_multimodel.data.mixture import mix as mix
from keras_multimodel.data.position import Position as Position
from keras_multimodel.data.preprocessor import Preprocessor as Preprocessor
from keras_multimodel.data.report import report as report
from keras_multimodel.data.spec_augment import SpecAugment as SpecAugment
from keras_multimodel.data.text import TextPreprocessor as TextPreprocessor
from keras_multimodel.data.text import train_text_preprocessor as train_text_preprocessor
from keras_multimodel.data.trees import TreePreprocessor as TreePreprocessor
from keras_multimodel.data.trees import delinearize as delinearize
from keras_multimodel.data.trees import linearize as linearize
from keras_multimodel.data.trees import repair as repair
from keras_multimodel.data.trees import train_tree_preprocessor as train_tree_preprocessor
from keras_multimodel.data.word_piece import WordPiecePreprocessor as WordPiecePreprocessor
from keras_multimodel.data.word_piece import (
    train_word_piece_preprocessor as train_word_piece_preprocessor,
)
