"""The layers that users compose.

May import losses, metrics and ops.
"""

from keras_multimodel.layers.attention_block import AttentionBlock as AttentionBlock
from keras_multimodel.layers.conv_block import ConvBlock as ConvBlock
from keras_multimodel.layers.feed_forward import FeedForward as FeedForward
from keras_multimodel.layers.modalities.audio import AudioModality as AudioModality
from keras_multimodel.layers.modalities.backbone import BackboneModality as BackboneModality
from keras_multimodel.layers.modalities.category import CategoryModality as CategoryModality
from keras_multimodel.layers.modalities.image import ImageModality as ImageModality
from keras_multimodel.layers.modalities.labels import LabelsModality as LabelsModality
from keras_multimodel.layers.modalities.modality_net import ModalityNet as ModalityNet
from keras_multimodel.layers.modalities.number import NumberModality as NumberModality
from keras_multimodel.layers.modalities.series import SeriesModality as SeriesModality
from keras_multimodel.layers.modalities.text import TextModality as TextModality
from keras_multimodel.layers.moe.layout import expert_layout_map as expert_layout_map
from keras_multimodel.layers.moe.moe_layer import MoELayer as MoELayer
from keras_multimodel.layers.moe.routers.bias_balanced_router import (
    BiasBalancedRouter as BiasBalancedRouter,
)
from keras_multimodel.layers.moe.routers.expert_choice_router import (
    ExpertChoiceRouter as ExpertChoiceRouter,
)
from keras_multimodel.layers.moe.routers.noisy_top_k_router import (
    NoisyTopKRouter as NoisyTopKRouter,
)
from keras_multimodel.layers.moe.routers.router import Router as Router
from keras_multimodel.layers.moe.routers.router import Routing as Routing
from keras_multimodel.layers.moe.routers.switch_router import SwitchRouter as SwitchRouter
from keras_multimodel.layers.moe.routers.top_k_router import TopKRouter as TopKRouter
from keras_multimodel.layers.stepping import SteppingBlock as SteppingBlock
from keras_multimodel.layers.timing_signal import TimingSignal as TimingSignal
