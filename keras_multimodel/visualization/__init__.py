"""Looking inside a model: attention, use of experts, command tokens, learning curves.

Returns arrays and matplotlib figures. May import models, and what models use.
"""

from keras_multimodel.visualization.attention import AttentionMap as AttentionMap
from keras_multimodel.visualization.attention import attention_weights as attention_weights
from keras_multimodel.visualization.attention_plot import plot_attention as plot_attention
from keras_multimodel.visualization.expert_use import over_fair_share as over_fair_share
from keras_multimodel.visualization.expert_use import plot_expert_use as plot_expert_use
from keras_multimodel.visualization.learning_curves import (
    plot_learning_curves as plot_learning_curves,
)
from keras_multimodel.visualization.similarity import Similarity as Similarity
from keras_multimodel.visualization.similarity import command_similarity as command_similarity
from keras_multimodel.visualization.similarity import expert_similarity as expert_similarity
from keras_multimodel.visualization.similarity import plot_similarity as plot_similarity
