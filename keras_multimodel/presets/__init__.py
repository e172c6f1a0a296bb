"""Folders that hold a trained model, and the ones that ship with the library.

May import `argument_checks`, and no layer or model: `models` reads and writes presets.
"""

from keras_multimodel.presets.folder import names as names
from keras_multimodel.presets.hub import upload as upload
