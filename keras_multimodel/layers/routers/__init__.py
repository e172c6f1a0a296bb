from keras_multimodel.layers.routers.noisy_top_k_router import NoisyTopKRouter as NoisyTopKRouter
from keras_multimodel.layers.routers.router import Router as Router
from keras_multimodel.layers.routers.router import Routing as Routing
