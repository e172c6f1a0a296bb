"""Schedules: which task each step trains.

May import nothing else of the package.
"""

from keras_multimodel.data.mixing.schedules.adaptive import Adaptive as Adaptive
from keras_multimodel.data.mixing.schedules.fixed import Annealed as Annealed
from keras_multimodel.data.mixing.schedules.fixed import Proportional as Proportional
from keras_multimodel.data.mixing.schedules.fixed import Temperature as Temperature
from keras_multimodel.data.mixing.schedules.fixed import Uniform as Uniform
from keras_multimodel.data.mixing.schedules.schedule import Schedule as Schedule
