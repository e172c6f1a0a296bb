from keras_multimodel.models.task_weighting import TaskWeighting as TaskWeighting
from keras_multimodel.training.dwa import DWA as DWA
from keras_multimodel.training.expert_use import ExpertUse as ExpertUse
from keras_multimodel.training.expert_use import expert_use as expert_use
from keras_multimodel.training.grad_norm import GradNorm as GradNorm
from keras_multimodel.training.input_wait import InputWait as InputWait
from keras_multimodel.training.pc_grad import PCGrad as PCGrad
from keras_multimodel.training.uncertainty import Uncertainty as Uncertainty
