from keras_multimodel.layers.attention import Attention as Attention
from keras_multimodel.layers.attention_block import AttentionBlock as AttentionBlock
from keras_multimodel.layers.audio_modality import AudioModality as AudioModality
from keras_multimodel.layers.category_modality import CategoryModality as CategoryModality
from keras_multimodel.layers.conv_block import ConvBlock as ConvBlock
from keras_multimodel.layers.conv_res import ConvRes as ConvRes
from keras_multimodel.layers.conv_step import ConvStep as ConvStep
from keras_multimodel.layers.exit_flow import ExitFlow as ExitFlow
from keras_multimodel.layers.expert_layout import expert_layout_map as expert_layout_map
from keras_multimodel.layers.feed_forward import FeedForward as FeedForward
from keras_multimodel.layers.image_modality import ImageModality as ImageModality
from keras_multimodel.layers.layer_norm import LayerNorm as LayerNorm
from keras_multimodel.layers.modality_net import ModalityNet as ModalityNet
from keras_multimodel.layers.moe_layer import MoELayer as MoELayer
from keras_multimodel.layers.routers import BiasBalancedRouter as BiasBalancedRouter
from keras_multimodel.layers.routers import ExpertChoiceRouter as ExpertChoiceRouter
from keras_multimodel.layers.routers import NoisyTopKRouter as NoisyTopKRouter
from keras_multimodel.layers.routers import Router as Router
from keras_multimodel.layers.routers import SwitchRouter as SwitchRouter
from keras_multimodel.layers.routers import TopKRouter as TopKRouter
from keras_multimodel.layers.slicenet_timing_signal import (
    SliceNetTimingSignal as SliceNetTimingSignal,
)
from keras_multimodel.layers.stepping import SteppingBlock as SteppingBlock
from keras_multimodel.layers.text_modality import TextModality as TextModality
from keras_multimodel.layers.timing_signal import TimingSignal as TimingSignal
