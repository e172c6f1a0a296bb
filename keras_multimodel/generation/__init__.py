"""From raw inputs to raw outputs: the loop that writes one id after another, and its caches.

May import layers and ops.
"""

from keras_multimodel.generation.beam_search import BeamSearch as BeamSearch
from keras_multimodel.generation.constraints import Constraint as Constraint
from keras_multimodel.generation.constraints import TreeConstraint as TreeConstraint
from keras_multimodel.generation.outputs import Generation as Generation
from keras_multimodel.generation.outputs import Hypothesis as Hypothesis
from keras_multimodel.generation.outputs import Stream as Stream
