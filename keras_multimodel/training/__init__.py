from keras_multimodel.training.expert_use import ExpertUse as ExpertUse
from keras_multimodel.training.expert_use import expert_use as expert_use
