"""From raw examples to one mixed `tf.data.Dataset` of padded batches.

May import `generation.constraints`, and no layer or model.
"""

from keras_multimodel.data.augmentation.augment import augment as augment
from keras_multimodel.data.augmentation.drop_inputs import DropInputs as DropInputs
from keras_multimodel.data.augmentation.image_augment import ImageAugment as ImageAugment
from keras_multimodel.data.augmentation.spec_augment import SpecAugment as SpecAugment
from keras_multimodel.data.encoding.bad_examples import BadExample as BadExample
from keras_multimodel.data.encoding.bad_examples import BadExampleError as BadExampleError
from keras_multimodel.data.encoding.bad_examples import BadExamples as BadExamples
from keras_multimodel.data.encoding.encode import encode as encode
from keras_multimodel.data.infer_columns import infer_columns as infer_columns
from keras_multimodel.data.mixing import schedules as schedules
from keras_multimodel.data.mixing.mix import batch as batch
from keras_multimodel.data.mixing.mix import mix as mix
from keras_multimodel.data.mixing.mixture import Position as Position
from keras_multimodel.data.preprocessing.audio import AudioPreprocessor as AudioPreprocessor
from keras_multimodel.data.preprocessing.audio import WaveformPreprocessor as WaveformPreprocessor
from keras_multimodel.data.preprocessing.categories import (
    CategoryPreprocessor as CategoryPreprocessor,
)
from keras_multimodel.data.preprocessing.categories import (
    LabelsPreprocessor as LabelsPreprocessor,
)
from keras_multimodel.data.preprocessing.graph_forms import GraphForm as GraphForm
from keras_multimodel.data.preprocessing.images import ImagePreprocessor as ImagePreprocessor
from keras_multimodel.data.preprocessing.numbers import NumberPreprocessor as NumberPreprocessor
from keras_multimodel.data.preprocessing.numbers import SeriesPreprocessor as SeriesPreprocessor
from keras_multimodel.data.preprocessing.preprocessor import Preprocessor as Preprocessor
from keras_multimodel.data.preprocessing.text import TextPreprocessor as TextPreprocessor
from keras_multimodel.data.preprocessing.text import (
    train_text_preprocessor as train_text_preprocessor,
)
from keras_multimodel.data.preprocessing.trees import TreePreprocessor as TreePreprocessor
from keras_multimodel.data.preprocessing.trees import (
    train_tree_preprocessor as train_tree_preprocessor,
)
from keras_multimodel.data.preprocessing.word_piece import (
    WordPiecePreprocessor as WordPiecePreprocessor,
)
from keras_multimodel.data.preprocessing.word_piece import (
    train_word_piece_preprocessor as train_word_piece_preprocessor,
)
from keras_multimodel.data.report import DataReport as DataReport
from keras_multimodel.data.report import report as report
from keras_multimodel.data.split import split as split
from keras_multimodel.data.table import Table as Table
from keras_multimodel.data.table import rows_to_tasks as rows_to_tasks
from keras_multimodel.data.table import table as table
