from keras_multimodel.decoding.beam_search import BeamSearch as BeamSearch
from keras_multimodel.decoding.constraint import Constraint as Constraint
from keras_multimodel.decoding.generation import Generation as Generation
from keras_multimodel.decoding.generation import Hypothesis as Hypothesis
from keras_multimodel.decoding.streaming import Stream as Stream
from keras_multimodel.decoding.tree_constraint import TreeConstraint as TreeConstraint
