"""Methods that weigh the losses of the tasks against each other during training.

May import ops, and no model: `MultiModel.compile` hands a method the model that it weighs.
"""

from keras_multimodel.weighting.dwa import DWA as DWA
from keras_multimodel.weighting.grad_norm import GradNorm as GradNorm
from keras_multimodel.weighting.pc_grad import PCGrad as PCGrad
from keras_multimodel.weighting.task_weighting import TaskWeighting as TaskWeighting
from keras_multimodel.weighting.uncertainty import Uncertainty as Uncertainty
