from keras_multimodel.data.schedules.adaptive import Adaptive as Adaptive
from keras_multimodel.data.schedules.annealed import Annealed as Annealed
from keras_multimodel.data.schedules.proportional import Proportional as Proportional
from keras_multimodel.data.schedules.schedule import Schedule as Schedule
from keras_multimodel.data.schedules.temperature import Temperature as Temperature
from keras_multimodel.data.schedules.uniform import Uniform as Uniform
