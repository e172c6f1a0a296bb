"""Bad input: a ValueError at once, by argument and value, and no step before it."""

import re

import keras
import numpy as np
import pytest

from tests.models.bad_batches import BAD, BAD_TARGETS, change, good, put
from tests.models.small_models import build, make_tasks


class Steps(keras.callbacks.Callback):
    """Counts what `fit` and `evaluate` did."""

    def __init__(self):
        super().__init__()
        self.count = self.batches = 0

    def on_train_begin(self, logs=None):
        self.count += 1

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    on_test_begin, on_test_batch_end = on_train_begin, on_train_batch_end


@pytest.fixture(scope="module")
def model():
    model = build(make_tasks("copy", "digits"), num_encoder_blocks=1)
    model.compile("sgd", run_eagerly=True)
    return model


FIT = {**BAD, **BAD_TARGETS}
VALUES = (
    "id too high",
    "id too low",
    "label",
    "target id",
    "not a number",
    "infinite as float32",
)


def refuses(expected, received):
    return pytest.raises(ValueError, match=re.escape(expected) + ".*" + re.escape(received))


def as_arrays(x, y):
    return {"x": x, "y": y}


def as_generator(x, y):
    return {"x": (batch for batch in [(x, y)])}


def as_dataset(x, y):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensors((x, y))}


def as_pydataset(x, y):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return x, y

    return {"x": Batches()}


FORMS = [as_arrays, as_generator, as_dataset, as_pydataset]


@pytest.mark.parametrize("name", FIT)
@pytest.mark.parametrize("form", FORMS)
def test_fit_and_evaluate_refuse(model, form, name):
    path, value, expected, received = FIT[name]
    x, y = change(path, value)
    if form is as_dataset and name in ("a list", "strings", "ragged", "ragged targets"):
        pytest.skip("tf.data makes a tensor of it, or refuses it")
    steps = Steps()
    for method in (model.fit, model.evaluate):
        with refuses(expected, received):
            method(**form(x, y), verbose=0, callbacks=[steps])
    assert steps.batches == 0
    if form is not as_dataset or name not in VALUES:  # which are checked as a batch is read
        assert steps.count == 0


@pytest.mark.parametrize("name", FIT)
def test_validation_data_are_checked_before_the_first_step(model, name):
    path, value, expected, received = FIT[name]
    steps = Steps()
    with refuses(expected, received):
        data = change(path, value)
        model.fit(*good(), validation_data=data, verbose=0, callbacks=[steps])
    assert steps.count == 0


@pytest.mark.parametrize("name", [name for name in BAD if name not in VALUES])
def test_a_call_refuses(model, name):
    path, value, _, received = BAD[name]
    with refuses("`", received):
        model(change(path, value)[0])


@pytest.mark.parametrize("form", FORMS)
def test_good_data_pass(model, form):
    x, y = good()
    history = model.fit(**form(x, y), epochs=1, verbose=0).history
    assert np.isfinite(history["loss"][0])
    scores = model.evaluate(**form(x, y), verbose=0, return_dict=True)
    assert np.isfinite(scores["loss"])


def test_every_batch_of_a_generator_is_seen(model):
    steps = Steps()
    model.fit((good() for _ in range(3)), verbose=0, callbacks=[steps])
    assert steps.batches == 3


def empty_dataset():
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensors(good()).take(0)}


def empty_arrays():
    x, y = good()
    x["digits"]["inputs"], y["digits"] = x["digits"]["inputs"][:0], y["digits"][:0]
    return {"x": x, "y": y}


def empty_pydataset():
    class Nothing(keras.utils.PyDataset):
        def __len__(self):
            return 0

        def __getitem__(self, index):
            raise IndexError(index)

    return {"x": Nothing()}


@pytest.mark.parametrize(
    "data, received",
    [
        (empty_dataset, "an empty data set"),
        (lambda: {"x": (batch for batch in [])}, "an empty data set"),
        (empty_pydataset, "an empty data set"),
        (empty_arrays, "none of ['digits']"),
    ],
)
def test_an_empty_data_set_is_refused(model, data, received):
    steps = Steps()
    for method in (model.fit, model.evaluate):
        with refuses("`x` must hold", f"Received: {received}"):
            method(**data(), verbose=0, callbacks=[steps])
    assert steps.count == 0


def test_no_targets_are_refused(model):
    import tensorflow as tf

    x, y = good()
    alone = {
        "arrays": {"x": x},
        "a data set": {"x": tf.data.Dataset.from_tensors(x)},
        "a generator": {"x": (batch for batch in [x])},
    }
    steps = Steps()
    for arguments in alone.values():
        with refuses("`y` must be a dict with the keys ['copy', 'digits']", "None"):
            model.fit(**arguments, verbose=0, callbacks=[steps])
    with refuses("`y['digits']` must be an array", "None"):
        model.fit(x, {**y, "digits": None}, verbose=0, callbacks=[steps])
    with refuses("`x['digits']['inputs']` must be an array", "None"):
        model.fit({**x, "digits": {"inputs": None}}, y, verbose=0, callbacks=[steps])
    with refuses("`x` must be a dict", "None"):
        model.fit(verbose=0, callbacks=[steps])
    assert steps.count == 0


def test_a_ragged_data_set_is_refused(model):
    import tensorflow as tf

    x, y = good()
    ragged = tf.ragged.constant([[3, 4, 1], [1]], dtype="int32")
    x["copy"]["inputs"] = ragged
    with refuses(
        "`x['copy']['inputs']` must be an array of rows of one length", "RaggedTensorSpec"
    ):
        model.fit(tf.data.Dataset.from_tensors((x, y)), verbose=0)


def unknown_sizes(x, y):
    """Returns a data set that tells neither its lengths nor how many batches it has."""
    import tensorflow as tf

    def spec(array):
        shape = [None] * array.ndim if array.ndim < 3 else array.shape
        return tf.TensorSpec(shape, array.dtype)

    signature = keras.tree.map_structure(spec, (x, y))
    return tf.data.Dataset.from_generator(lambda: [(x, y)], output_signature=signature)


def test_no_position_is_refused_where_only_the_batch_tells(model):
    x, y = change("x copy inputs", lambda a: a[:, :0])
    with refuses("`x['copy']['inputs']` must be of shape", "2 0"):
        model.fit(unknown_sizes(x, y), verbose=0)


def test_a_later_batch_is_checked_too(model):
    import tensorflow as tf

    x, y = good()
    bad = {**y, "digits": np.array([0, 3], "int32")}
    data = tf.data.Dataset.from_tensors((x, y)).concatenate(tf.data.Dataset.from_tensors((x, bad)))
    for call in (
        lambda: model.fit(data, verbose=0),
        lambda: model.evaluate(data, verbose=0),
        lambda: model.fit(data.take(1), validation_data=data, verbose=0),
    ):
        with refuses("`y['digits']` must hold ids from 0 to 2", "Received: 3"):
            call()


def test_predict_checks_its_inputs(model):
    import tensorflow as tf

    x, _ = change("x copy inputs", put((0, 1), 11))
    for data in (x, tf.data.Dataset.from_tensors(x)):
        with refuses("`x['copy']['inputs']` must hold ids from 0 to 10", "Received: 11"):
            model.predict(data, verbose=0)


def test_a_data_set_of_unknown_size_that_is_empty_is_refused(model):
    import tensorflow as tf

    empty = tf.data.Dataset.from_tensors(good()).filter(lambda *batch: False)
    for method in (model.fit, model.evaluate):
        with refuses("`x` must hold at least one batch", "an empty data set"):
            method(empty, verbose=0)
    with refuses("`validation_data` must hold at least one batch", "an empty data set"):
        model.fit(*good(), validation_data=empty, verbose=0)


def test_fit_reads_no_batch_that_it_does_not_train_on(model):
    import tensorflow as tf

    read = []

    def batch(number):
        read.append(int(number))
        return np.int64(number)

    def with_number(number):
        number = tf.numpy_function(batch, [number], "int64")
        with tf.control_dependencies([number]):
            return keras.tree.map_structure(tf.identity, good())

    data = tf.data.Dataset.range(3).map(with_number)
    data = data.map(lambda x, y: keras.tree.map_structure(_like, (x, y), good()))
    assert int(model.fit(data, verbose=0).params["steps"]) == 3
    assert read == [0, 1, 2]


def _like(tensor, array):
    import tensorflow as tf

    return tf.ensure_shape(tensor, array.shape)


def test_a_torch_loader_is_taken(model):
    torch = pytest.importorskip("torch")
    x, y = good()
    loader = torch.utils.data.DataLoader(
        [(keras.tree.map_structure(lambda a: a[i], (x, y))) for i in range(2)], batch_size=2
    )
    history = model.fit(loader, verbose=0).history
    assert np.isfinite(history["loss"][0])
    short = {**y, "digits": y["digits"].astype("float32")}
    wrong = torch.utils.data.DataLoader(
        [(keras.tree.map_structure(lambda a: a[i], (x, short))) for i in range(2)], batch_size=2
    )
    with refuses("`y['digits']` must be of an integer dtype", "dtype=float32"):
        model.fit(wrong, verbose=0)


@pytest.mark.parametrize(
    "arguments, expected, received",
    [
        (("other", [np.array([1])]), "`task` must be one of ['copy', 'digits']", "task='other'"),
        (("copy", "a text"), "`inputs[0]` must become numbers of shape (None,)", "shape=()"),
        (("copy", []), "`inputs` must hold at least one", "[]"),
        (("copy", [np.zeros(0, "int32")]), "`inputs", "Received: "),
        (("digits", [np.zeros((5, 8, 1))]), "`inputs", "5, 8, 1"),
        (("copy", [np.array([[3, 1]])]), "`inputs", "Received: "),
    ],
)
def test_generate_refuses(model, arguments, expected, received):
    with refuses(expected, received):
        model.generate(*arguments)


def test_data_of_one_task_that_are_not_mixed_are_refused(model):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensors({"inputs": np.ones((2, 3), "int32"), "targets": [1, 2]})
    with pytest.raises(ValueError, match=r"`x` must have the keys .* `kmm.data.mix\(.task: data"):
        model.fit(data)


def test_generate_refuses_a_length(model):
    with refuses("`max_length` must be", "max_length=0"):
        model.generate("copy", [np.array([1])], max_length=0)


def test_a_task_model_of_an_unknown_task_is_refused(model):
    with refuses("`task` must be one of ['copy', 'digits']", "task='other'"):
        model.task_model("other")
