"""Copies of a model: every way that Keras has, for models whose state is more than weights."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest

from keras_multimodel import MultiModel, Task
from keras_multimodel.layers import CategoryModality, ModalityNet, TextModality
from keras_multimodel.weighting import Uncertainty
from tests.models.small_models import (
    HIDDEN_DIM,
    build,
    ids,
    make_batch,
    make_tasks,
    max_difference,
    numpy_outputs,
)

pytestmark = pytest.mark.usefixtures("eagerly")
SIZES = {"num_encoder_blocks": 1, "num_mixer_blocks": 1, "num_decoder_blocks": 1}
PLAIN = {"conv_block": None, "attention_block": None, "moe": None}


@keras.saving.register_keras_serializable(package="test_copies")
class Around(keras.layers.Layer):
    """A user's block that holds a layer given as an argument."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, input_shape):
        if not self.inner.built:
            self.inner.build(input_shape)

    def call(self, inputs):
        return inputs + keras.ops.cast(self.inner(inputs), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "inner": keras.saving.deserialize_keras_object(config["inner"])})


@keras.saving.register_keras_serializable(package="test_copies")
class Points(ModalityNet):
    """A user's modality: sequences of pairs of numbers."""

    example_shape = (None, 2)

    def __init__(self, hidden_dim, **kwargs):
        super().__init__(hidden_dim, **kwargs)
        self.dense = keras.layers.Dense(hidden_dim, name="dense")

    def build(self, input_shape):
        self.dense.build((None, None, 2))

    def encode(self, inputs, mask=None):
        return self.dense(inputs)

    def compute_output_spec(self, inputs, mask=None, reverse=False, like=None):
        return keras.KerasTensor((*inputs.shape[:2], self.hidden_dim), dtype=self.compute_dtype)


def dense(units=HIDDEN_DIM, **kwargs):
    return keras.layers.Dense(units, **kwargs)


def shared_inside():
    """Returns a functional block that calls one inner layer twice, beside a nested `Sequential`."""
    x = keras.Input((None, HIDDEN_DIM))
    once = dense()
    y = once(once(x)) + keras.Sequential([dense(8, activation="relu"), dense()])(x)
    return keras.Model(x, y)


def text_model(**blocks):
    return build(make_tasks("copy", "topic"), **{**PLAIN, **SIZES, **blocks})


def frozen():
    model = text_model(moe=keras.Sequential([dense(8), dense()]), conv_block=Around(dense()))
    model.body.decoder.blocks[0][0].trainable = False
    model.body.encoder.experts.layers[0].trainable = False
    model.tasks["topic"].inputs.trainable = False
    return model


def frozen_throughout():
    model = text_model(conv_block=Around(dense()))
    model.trainable = False
    model.body.encoder.trainable = True  # of a model that is frozen
    return model


def own_nets():
    text = TextModality(7, HIDDEN_DIM, name="text")
    tasks = [
        Task("trace", Points(HIDDEN_DIM, name="points"), text, max_target_length=3),
        Task("kind", Points(HIDDEN_DIM, name="others"), CategoryModality(3, HIDDEN_DIM)),
    ]
    model = build(tasks, **{**PLAIN, **SIZES, "conv_block": Around(dense())})
    tasks[1].inputs.dense.trainable = False
    return model


def int8():
    model = text_model(moe=keras.Sequential([dense(8), dense()]), conv_block=Around(dense()))
    model.quantize("int8", filters=lambda layer: isinstance(layer, keras.layers.Dense))
    return model


def lora():
    model = text_model(moe=keras.Sequential([dense(8), dense()]), conv_block=Around(dense()))
    model.body.encoder.blocks[0].inner.enable_lora(2, lora_alpha=4)
    for layer in model.body.decoder.experts.layers:
        layer.enable_lora(2)
    return model


MODELS = {
    "a Sequential": lambda: text_model(
        moe=keras.Sequential([dense(8, activation="relu"), dense()])
    ),
    "a functional block": lambda: text_model(moe=shared_inside()),
    "wrappers": lambda: text_model(
        conv_block=keras.layers.TimeDistributed(dense()), moe=Around(keras.Sequential([dense()]))
    ),
    "a user's block": lambda: text_model(conv_block=Around(dense())),
    "own nets": own_nets,
    "frozen parts": frozen,
    "frozen throughout": frozen_throughout,
    "task weighting": lambda: text_model(conv_block=Around(dense())),
    "int8": int8,
    "lora": lora,
}


def by_weights_file(model, folder):
    model.save_weights(folder / "model.weights.h5")
    again = MultiModel.from_config(model.get_config())
    again.load_weights(folder / "model.weights.h5")
    return again


def by_file(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


# way: the function, and whether it keeps the weights, and the state of the optimizer
WAYS = {
    "save": (by_file, True, True),
    "deepcopy": (lambda model, _: copy.deepcopy(model), True, True),
    "pickle": (lambda model, _: pickle.loads(pickle.dumps(model)), True, True),  # noqa: S301
    "weights": (by_weights_file, True, False),
    "from_config": (lambda model, _: MultiModel.from_config(model.get_config()), False, False),
    "clone_model": (lambda model, _: keras.models.clone_model(model), False, False),
}


def batch_of(model):
    if "copy" in model.tasks:
        return make_batch(model.tasks.values(), (3, 2))
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2, 3, 2)).astype("float32")
    targets = ids(rng, [3, 2], 7)
    x = {"trace": {"inputs": points, "targets": targets}, "kind": {"inputs": points}}
    return x, {"trace": targets, "kind": np.array([0, 2], "int32")}


@pytest.fixture(scope="module", params=MODELS)
def trained(request):
    """A model after one step, what it outputs, and which classes it generates."""
    keras.utils.set_random_seed(0)
    model = MODELS[request.param]()
    if request.param != "int8":
        weighting = Uncertainty() if request.param == "task weighting" else None
        model.compile(keras.optimizers.Adam(0.01), task_weighting=weighting, run_eagerly=True)
        if model.trainable_weights:
            model.train_on_batch(*batch_of(model))
    for layer in model.weights:  # biases and the like are no zeros, so that none is mistaken
        if layer.trainable and keras.backend.is_float_dtype(layer.dtype):
            layer.assign_add(0.01 * np.random.default_rng(1).normal(size=layer.shape))
    x, _ = batch_of(model)
    return model, x, numpy_outputs(model(x)), classes(model, x)


def classes(model, x):
    name = list(model.tasks)[-1]
    inputs = [row[row > 0] if row.ndim == 1 else row for row in x[name]["inputs"]]
    return list(model.generate(name, inputs))


def as_json(config):
    return json.loads(json.dumps(config))  # what a file makes of tuples


def weights(model):
    """Returns the weights without those of the task weighting, which `compile` makes."""
    weighting = model.task_weighting
    own = {id(weight) for weight in ([] if weighting is None else weighting.weights)}
    return [weight for weight in model.weights if id(weight) not in own]


def flags(model):
    return [(weight.shape, weight.dtype, weight.trainable) for weight in weights(model)]


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_the_same_model(trained, way, tmp_path):
    model, x, outputs, generated = trained
    make, keeps_weights, keeps_optimizer = WAYS[way]
    again = make(model, tmp_path)
    assert type(again) is MultiModel and again is not model
    assert flags(again) == flags(model)
    assert len({id(weight) for weight in again.weights}) == len(again.weights)
    assert not {id(w) for w in again.weights} & {id(w) for w in model.weights}
    shapes = [[w.shape for w in weights(one) if w.trainable] for one in (model, again)]
    assert shapes[0] == shapes[1]
    assert as_json(again.get_config()) == as_json(model.get_config())
    if keeps_weights and "lora" not in str(model.get_config()["layer_states"]):
        for mine, theirs in zip(weights(model), weights(again)):
            np.testing.assert_array_equal(mine, theirs)
    if keeps_weights:
        # Keras merges LoRA weights into the kernel when it saves.
        assert max_difference(outputs, numpy_outputs(again(x))) < 1e-5
        assert classes(again, x) == generated
    else:
        assert len(classes(again, x)) == len(generated)
    if model.compiled and way == "clone_model":
        assert again.compiled
    if model.compiled and keeps_optimizer:
        assert type(again.task_weighting) is type(model.task_weighting)
        for mine, theirs in zip(model.weights, again.weights):
            if model.task_weighting is not None:
                np.testing.assert_array_equal(mine, theirs)
        assert len(again.optimizer.variables) == len(model.optimizer.variables)
        for mine, theirs in zip(model.optimizer.variables, again.optimizer.variables):
            np.testing.assert_array_equal(mine, theirs)


def test_what_was_frozen_is_not_trained_after_a_load(tmp_path):
    model = frozen()
    model.compile(keras.optimizers.Adam(0.1), run_eagerly=True)
    again = by_file(model, tmp_path)
    before = [keras.ops.convert_to_numpy(weight) for weight in again.weights]
    again.train_on_batch(*batch_of(again))
    for weight, value in zip(again.weights, before):
        if not weight.trainable:
            np.testing.assert_array_equal(weight, value, err_msg=weight.path)


@pytest.mark.parametrize("shared", [shared_inside, lambda: keras.Sequential([dense(8), dense()])])
def test_clones_own_their_weights_before_and_after_a_load(shared, tmp_path):
    model = text_model(moe=shared(), conv_block=Around(dense()))
    for one in (model, by_file(model, tmp_path)):
        encoder, decoder = (
            {id(w) for w in part.experts.weights} for part in (one.body.encoder, one.body.decoder)
        )
        assert encoder and len(encoder) == len(decoder) and not encoder & decoder


def test_a_layer_in_the_config_of_a_block_is_refused():
    class Holds(Around):
        def get_config(self):
            return {**super().get_config(), "inner": self.inner}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    with pytest.raises(ValueError, match="`conv_block` must be clonable .* shares layers with it"):
        text_model(conv_block=Holds(dense()))


def test_the_policy_of_a_model_comes_back_with_it(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = text_model(conv_block=Around(dense()))
        model.body.decoder.blocks[0][0].dtype_policy = keras.DTypePolicy("float32")
    finally:
        keras.config.set_dtype_policy(before)
    again = by_file(model, tmp_path)
    assert keras.config.dtype_policy() == before
    for part in ("encoder", "decoder"):
        policies = [getattr(one.body, part).dtype_policy.name for one in (model, again)]
        assert policies == ["mixed_bfloat16"] * 2
    assert again.body.decoder.blocks[0][0].compute_dtype == "float32"
    x, _ = batch_of(model)
    assert max_difference(numpy_outputs(model(x)), numpy_outputs(again(x))) == 0.0


def test_a_config_whose_block_was_replaced_keeps_what_fits():
    config = frozen().get_config()
    config["moe"] = None
    with pytest.warns(UserWarning, match="states of .* layers for 'encoder'"):
        model = MultiModel.from_config(config)
    assert not model.tasks["topic"].inputs.trainable and model.body.encoder.trainable


def test_a_clone_takes_a_function_of_the_user():
    model = text_model(conv_block=Around(dense()))
    seen = []

    def clone(layer):
        seen.append(layer.name)
        return type(layer).from_config(layer.get_config())

    again = keras.models.clone_model(model, clone_function=clone)
    assert type(again) is MultiModel
    assert sorted(seen) == ["copy_command", "decoder", "encoder", "mixer", "text", "topics"]
    assert again.tasks["copy"].inputs is again.tasks["topic"].inputs


def test_a_body_is_shared_with_new_tasks():
    """A task that the other model has shares its command, another gets its own."""
    model = text_model(conv_block=Around(dense()))
    text = TextModality(5, HIDDEN_DIM, name="titles")
    tasks = [Task("title", text, text), Task("copy", text, text)]
    more = MultiModel(tasks, HIDDEN_DIM, body=model.body)
    assert more.body.encoder is model.body.encoder and more.body.decoder is model.body.decoder
    assert more.body.commands["copy"] is model.body.commands["copy"]
    assert set(model.body.commands) == {"copy"} and set(more.body.commands) == {"copy", "title"}
    assert len(more.generate("title", [np.array([3, 1])], max_length=2)) == 1
    again = MultiModel.from_config(more.get_config())
    assert as_json(again.get_config()) == as_json(more.get_config())


def test_a_body_without_a_decoder_gets_one_for_a_task_that_writes():
    model = build(make_tasks("topic"), **{**PLAIN, **SIZES, "conv_block": Around(dense())})
    assert model.body.decoder is None
    more = MultiModel(make_tasks("copy"), HIDDEN_DIM, body=model.body)
    assert more.body.encoder is model.body.encoder
    assert more.body.decoder is not None and model.body.decoder is None
    x, _ = make_batch(more.tasks.values(), (3,))
    assert numpy_outputs(more(x))["copy"].shape[0] == 1


def test_a_body_of_another_width_is_refused():
    model = text_model()
    text = TextModality(5, 8)
    with pytest.raises(ValueError, match="`body` must .* body.hidden_dim=16, hidden_dim=8"):
        MultiModel([Task("copy", text, text)], 8, body=model.body)
