from keras_multimodel.ops.grouped_matmul import grouped_matmul as grouped_matmul
from keras_multimodel.ops.sparse_feed_forward import (
    expert_choice_feed_forward as expert_choice_feed_forward,
)
from keras_multimodel.ops.sparse_feed_forward import sparse_feed_forward as sparse_feed_forward
from keras_multimodel.ops.top_k import stable_top_k as stable_top_k
