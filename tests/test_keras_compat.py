"""Each private name of Keras that the package uses still does what `_keras_compat` says."""

import copy
import os
import pathlib
import re
import threading
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

from keras_multimodel import _keras_compat

PACKAGE = pathlib.Path(_keras_compat.__file__).parent
CHANGED = "Keras {} changed `{}`: see `keras_multimodel/_keras_compat.py`."


def changed(name):
    return CHANGED.format(keras.__version__, name)


def make_model():
    inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
    outputs = {name: keras.layers.Dense(1, name=f"{name}_out")(x) for name, x in inputs.items()}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss={"a": "mse", "b": "mae"})
    return model


def make_batch(rows=4):
    x = {name: np.ones((rows, 3), "float32") for name in ("a", "b")}
    return x, {name: np.ones((rows, 1), "float32") for name in x}


def test_all_layers():
    inner = keras.layers.Dense(2)
    wrapper = keras.layers.TimeDistributed(inner)
    model = keras.Sequential([keras.Input((3, 4)), wrapper])
    found = _keras_compat.all_layers(model)
    assert [sum(x is y for y in found) for x in (model, wrapper, inner)] == [1, 1, 1], changed(
        "Layer._flatten_layers"
    )


@pytest.mark.parametrize("epoch, expected", [(2, [2]), (None, [0, 1, 2])])
def test_set_initial_epoch(epoch, expected):
    class Skip(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            _keras_compat.set_initial_epoch(self.model, epoch)

    history = make_model().fit(*make_batch(), epochs=3, verbose=0, callbacks=[Skip()])
    assert history.epoch == expected, changed("Trainer._initial_epoch")


@pytest.mark.parametrize(
    "limit, expected",
    [({"global_clipnorm": 1.0}, [0.6, 0.8]), ({"clipvalue": 3.5}, [3.0, 3.5]), ({}, [3.0, 4.0])],
)
def test_clip_gradients(limit, expected):
    gradients = [ops.convert_to_tensor([3.0]), ops.convert_to_tensor([4.0])]  # their norm is 5
    clipped = _keras_compat.clip_gradients(keras.optimizers.SGD(**limit), gradients)
    clipped = [float(ops.convert_to_numpy(g)[0]) for g in clipped]
    np.testing.assert_allclose(
        clipped, expected, rtol=1e-6, err_msg=changed("BaseOptimizer._clip_gradients")
    )


@pytest.mark.parametrize("largest", [3.0, 0.03, np.inf])  # a norm over and under the limit
@pytest.mark.parametrize("scaled", [False, True])
def test_one_global_norm(largest, scaled):
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=shape).astype("float32") for shape in ((3, 2), (4,), ())]
    gradients[0][0, 0] = largest
    gradients = [ops.convert_to_tensor(g) for g in gradients]
    gradients[1:1] = [None]
    optimizer = keras.optimizers.SGD(global_clipnorm=2.0)
    given = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    expected = optimizer._clip_gradients(gradients)
    with _keras_compat.one_global_norm(given):
        found = _keras_compat.clip_gradients(optimizer, gradients)
        assert "_clip_gradients" in vars(optimizer)
    assert "_clip_gradients" not in vars(optimizer)
    assert found[1] is None
    for ours, theirs in zip(found, expected):
        if ours is not None:
            ours, theirs = (ops.convert_to_numpy(g) for g in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_untrack():
    class Owner(keras.layers.Layer):
        def build(self, input_shape):
            self.inner = keras.layers.Dense(2)
            self.inner.build(input_shape)

    owner = Owner()
    owner.build((None, 3))
    _keras_compat.untrack(owner, None)
    assert len(owner.weights) == 2
    _keras_compat.untrack(owner, owner.inner)
    owner.inner = None
    assert owner.weights == [], changed("Layer._tracker.untrack")


def test_is_validation_of_fit():
    seen = []

    class Model(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            seen.append(_keras_compat.is_validation_of_fit(kwargs))
            return super().evaluate(*args, **kwargs)

    model = Model([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    x = y = np.ones((4, 1), "float32")
    model.fit(x, y, validation_data=(x, y), verbose=0)
    model.evaluate(x, y, verbose=0)
    assert seen == [True, False], changed("_use_cached_eval_dataset of Trainer.evaluate")


def test_loss_tracker():
    class Last(keras.metrics.Mean):
        def update_state(self, values, sample_weight=None):
            super().update_state(0.0 * values + 7.0)

    model = make_model()
    assert _keras_compat.loss_tracker(model).name == "loss", changed("Trainer._loss_tracker")
    tracker = Last(name="loss")
    _keras_compat.set_loss_tracker(model, tracker)
    assert _keras_compat.loss_tracker(model) is tracker
    logs = model.fit(*make_batch(), verbose=0).history
    assert logs["loss"] == [7.0], changed("Trainer._loss_tracker")


def test_task_losses():
    model = make_model()
    _, y = make_batch()
    y_pred = {name: 3.0 * value for name, value in y.items()}
    found = _keras_compat.task_losses(model, y, y_pred)
    values = {name: float(loss(y[name], y_pred[name], None)) for name, loss, _ in found}
    assert values == {"a": 4.0, "b": 2.0}, changed("CompileLoss._flat_losses")
    trackers = [tracker.name for _, _, tracker in found]
    assert trackers == ["a_loss", "b_loss"], changed("CompileLoss.metrics")


def test_task_losses_of_a_model_with_one_loss():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model = keras.Model(model.inputs, {"a": model.outputs[0]})
    model.compile("sgd", loss={"a": "mse"})
    _, y = make_batch()
    found = _keras_compat.task_losses(model, {"a": y["a"]}, {"a": y["a"]})
    names = [(name, tracker) for name, _, tracker in found]
    assert names == [("a", None)], changed("CompileLoss._flat_losses")


class Adds(_keras_compat.OwnReplicaLosses):
    """Adds the sum of its inputs to the loss."""

    def call(self, inputs):
        self.add_loss(keras.ops.sum(inputs))
        return inputs


@pytest.mark.parametrize("replica, expected", [(0, [3.0]), (1, [])])
def test_losses_of_other_replicas_are_left_out(monkeypatch, replica, expected):
    layer = Adds()
    model = keras.Sequential([keras.Input((3,)), layer])
    model(np.ones((1, 3), "float32"))
    monkeypatch.setattr(_keras_compat, "replica_id", lambda: replica)
    losses = [float(loss) for loss in model.losses]
    assert losses == expected, changed("Layer._get_own_losses")


def test_each_thread_has_losses_of_its_own():
    layer = keras.layers.ActivityRegularization(1.0)  # one that does not derive from ours
    model = keras.Sequential([keras.Input((3,)), layer])
    _keras_compat.keep_losses_per_thread(model)
    ones = np.ones((1, 3), "float32")
    found = []

    def call(scale):
        model(scale * ones)
        found.append([float(loss) for loss in model.losses])

    model(ones)
    thread = threading.Thread(target=call, args=[2.0])
    thread.start()
    thread.join()
    losses = [float(loss) for loss in model.losses]
    assert (losses, found) == ([3.0], [[6.0]]), changed("Layer._losses")
    copied = copy.deepcopy(layer)
    copied(ones)
    assert len(copied.losses) == 1


class Early(_keras_compat.BuiltBeforeData):
    """Counts how often Keras asks for its variables."""

    asked = 0

    def make_variables(self):
        self.asked += 1
        if not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)


def make_early():
    inputs = keras.Input((3,))
    model = Early(inputs=inputs, outputs=keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss="mse")
    return model


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strategies are TensorFlow's")
@pytest.mark.parametrize("replicated", [False, True])
def test_variables_are_made_without_data_on_tensorflow(strategy, replicated):
    import tensorflow as tf

    read = []

    def rows():
        read.append(True)
        yield from [np.ones(3, "float32")] * 4

    data = tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec((3,)))
    data = data.map(lambda x: (x, tf.ones(1))).batch(4)
    with strategy.scope() if replicated else tf.name_scope("none"):
        model = make_early()
    model.fit(data, verbose=0, steps_per_epoch=1)
    assert model.asked == replicated, changed("Trainer._maybe_symbolic_build")
    assert len(read) == 1, changed("Trainer._maybe_symbolic_build")


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow has its own name")
def test_variables_are_made_without_data():
    model = make_early()
    model.fit(np.ones((4, 3), "float32"), np.ones((4, 1), "float32"), verbose=0)
    assert model.asked == 1, changed("Trainer._symbolic_build")


def test_no_other_file_touches_a_private_name_of_keras():
    private = re.compile(
        r"keras\S*\._[a-z]|model\._[a-z]|super\(\)\._(get_own|symbolic|maybe_symbolic|compute_loss)"
        r"|self\._(tracker|compile_config|loss_tracker|initial_epoch|symbolic_build|losses)\b"
        r"|optimizer\._|\._(flatten_layers|clear_losses|compile_loss|use_cached)"
    )
    found = [
        f"{file.relative_to(PACKAGE)}: {line.strip()}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.name != "_keras_compat.py"
        for line in file.read_text().splitlines()
        if private.search(line)
    ]
    assert found == []


def test_sublayers():
    inner = keras.layers.Dense(2)
    wrapper = keras.layers.TimeDistributed(inner)
    model = keras.Sequential([wrapper])
    assert wrapper in _keras_compat.sublayers(model), changed("Layer._flatten_layers")
    assert inner not in _keras_compat.sublayers(model), changed("Layer._flatten_layers")


def test_last_output():
    layer = keras.layers.Identity()
    layer(keras.Input((3,)))
    last = layer(keras.Input((5,)))
    assert _keras_compat.last_output(layer)[0] is last, changed("Operation._inbound_nodes")


def test_open_to_sublayers():
    class Owner(keras.layers.Layer):
        def build(self, input_shape):
            self.first = keras.layers.Dense(2)

    owner = Owner()
    owner.build((None, 3))
    with pytest.raises(ValueError, match="already built"):
        owner.second = keras.layers.Dense(2)
    with _keras_compat.open_to_sublayers(owner):
        owner.third = keras.layers.Dense(2)
    assert owner.third in _keras_compat.sublayers(owner), changed("Layer._tracker")
    with pytest.raises(ValueError, match="already built"):
        owner.fourth = keras.layers.Dense(2)


def test_has_value():
    assert _keras_compat.has_value(keras.Variable(1.0)), changed("Variable._value")


@pytest.mark.parametrize("arguments", [{}, {"steps_per_epoch": 4}, {"validation": True}], ids=str)
@pytest.mark.filterwarnings("error:Your input ran out of data")
def test_expect_steps(arguments):
    class Model(_keras_compat.BuiltBeforeData):
        def make_variables(self):
            pass

    class Expect(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.batches = _keras_compat.batches_of_fit(self.model)
            self.steps = []

        def on_epoch_begin(self, epoch, logs=None):
            self.steps.append(0)
            _keras_compat.expect_steps(self.batches, 2 if epoch == 1 else 4)

        def on_train_batch_end(self, batch, logs=None):
            self.steps[-1] += 1

    inputs = keras.Input((1,))
    model = Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    x = y = np.ones((4, 1), "float32")
    expect = Expect()
    options = dict(arguments)
    if options.pop("validation", False):
        options["validation_data"] = (x[:1], y[:1])
    model.fit(x, y, batch_size=1, epochs=3, verbose=0, callbacks=[expect], **options)
    assert expect.steps == [4, 2, 4], changed("EpochIterator._num_batches")
    other = make_model()
    assert _keras_compat.batches_of_fit(other) is None
    _keras_compat.expect_steps(None, 3)


@pytest.mark.parametrize("given, expected", [("up", ops.greater), ("down", ops.less)])
def test_set_direction(given, expected):
    metric = keras.metrics.MeanMetricWrapper(keras.losses.mean_squared_error, "of_ones_own")
    assert _keras_compat.direction(keras.metrics.Mean()) is None
    _keras_compat.set_direction(metric, given)
    assert _keras_compat.direction(metric) == given
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=[metric])
    stopping = keras.callbacks.EarlyStopping("of_ones_own")  # which asks for it
    model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0, callbacks=[stopping])
    assert stopping.monitor_op is expected, changed("Metric._direction")


def test_own_trainable():
    layer = keras.layers.TimeDistributed(keras.layers.Dense(2))
    own = layer.add_weight((2,), name="own")
    layer.build((None, 3, 4))
    layer.trainable = False
    found = _keras_compat.own_trainable(layer)
    assert len(found) == 1 and found[0] is own, changed("Layer._trainable_variables")


def test_loaded_file(tmp_path):
    found = []

    @keras.saving.register_keras_serializable(package="tests")
    class Seen(keras.Sequential):
        @classmethod
        def from_config(cls, config, custom_objects=None):
            file = _keras_compat.loaded_file()
            is_archive = isinstance(file, zipfile.ZipFile)
            found.append([*file.namelist()] if is_archive else os.listdir(file))
            return super().from_config(config, custom_objects)

    path = tmp_path / "model.keras"
    Seen([keras.Input((3,)), keras.layers.Dense(1)]).save(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    keras.saving.load_model(path)
    keras.saving.load_model(tmp_path / "folder")
    assert len(found) == 2, changed("_load_model_from_fileobj")
    for names in found:
        expected = ["config.json", "metadata.json", "model.weights.h5"]
        assert sorted(names) == expected, changed("_load_model_from_fileobj")
    assert _keras_compat.loaded_file() is None
