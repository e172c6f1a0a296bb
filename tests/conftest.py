"""Set-up of all tests: two logical CPU devices, for the tests of `MirroredStrategy`."""

import gc
import os

# What JAX compiles here runs once or twice. Processes that tests start inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import hypothesis
import keras
import pytest

# A busy machine is slow, and wrong in nothing. The examples are the same in every run, so that a
# test fails for a change and not by chance; `--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    # Graphs run as they are written. TensorFlow's rewrites of a graph that runs a few times cost a
    # fifth of its test, and they add the parts of `loss` in an order that differs from trace to
    # trace. What tests start as processes of their own (examples, workers) has the rewrites.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_collection_finish():
    """Leaves all that is imported out of garbage collections.

    Keras runs one for each kernel that quantization replaces, and they took 0.3 s each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """Gives every test the same random numbers, whichever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def strategy():
    """The one strategy over two logical devices: a second one in the process would abort."""
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


@pytest.fixture
def eagerly():
    """Runs the functions of TensorFlow step by step, for models that run once each."""
    if keras.backend.backend() == "tensorflow":
        tf.config.run_functions_eagerly(True)
        yield
        tf.config.run_functions_eagerly(False)
    else:
        yield


# They take longest, and would leave one worker busy at the end while the others wait.
_FIRST = [
    "test_backends",
    "test_eight_tasks_mirrored",
    "test_readme",
    "test_resume",
    "test_benchmarks",
    "test_mirrored_strategy",
    "test_other_backends",
    "test_copies",
    "test_mixture",
]


def pytest_configure(config):
    """Has xdist keep the order of the files: its own puts files with few tests last."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Runs the longest files first."""
    places = {name: place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
