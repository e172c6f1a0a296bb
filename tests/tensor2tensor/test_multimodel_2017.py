"""The authors' model as a whole: their numbers, other options, training, generation."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_multimodel as kmm
from keras_multimodel.losses import LabelSmoothedCrossentropy
from keras_multimodel.tensor2tensor import generate_2017, multimodel_2017
from keras_multimodel.tensor2tensor.multimodel_2017 import DILATION_SCHEMES, KERNEL_SCHEMES
from keras_multimodel.tensor2tensor.weights import load_tensor2tensor_weights, model_entries
from tests.tensor2tensor import golden_2017 as golden
from tests.tensor2tensor import multimodel_2017_reference as reference
from tests.tensor2tensor.test_blocks import check_gradients, on_tensorflow

SMALL = {"vocabulary_size": 50, "hidden_dim": 36, "num_layers": 2, "num_experts": 6}
ONE = {"num_layers": 1}  # where the body is not what is tested


@pytest.fixture(scope="module")
def full():
    file = golden.load("x_full_a_symbol_sep0")
    model, features = golden.full_model(file)
    load_tensor2tensor_weights(model, golden.variables(file))
    return file, model, features


def test_logits_and_losses_match_the_authors_code(full):
    file, model, features = full
    logits = model(features, training=False)
    assert golden.relative_error(logits, file["out/logits_eval"][:, :, 0, 0]) < 1e-4
    loss = LabelSmoothedCrossentropy(0.1, mask_id=0)(features["targets"], logits)
    assert float(loss) == pytest.approx(float(file["out/training_loss_eval"]), rel=1e-4)


def test_expert_losses_in_inference_match_the_authors_code(full):
    file, model, features = full
    experts = [model.get_layer(name) for name in ("experts_enc", "experts_dec")]
    inputs = keras.Model(model.inputs, [layer.input for layer in experts])
    read = inputs([features[tensor.name] for tensor in model.inputs])
    loss = sum(layer.router(x).loss for layer, x in zip(experts, read))
    assert float(0.01 * loss) == pytest.approx(float(file["out/extra_loss_eval"]), rel=1e-4)


@on_tensorflow
def test_training_matches_the_authors_code_with_its_noise():
    import tensorflow as tf

    file = golden.load("x_full_a_symbol_sep0")
    model, features = golden.full_model(file)
    load_tensor2tensor_weights(model, golden.variables(file))
    golden.use_noise(model.get_layer("experts_enc"), file["in/noise_enc"])
    golden.use_noise(model.get_layer("experts_dec"), file["in/noise_dec"])
    with tf.GradientTape() as tape:
        logits = model(features, training=True)
        task = LabelSmoothedCrossentropy(0.1, mask_id=0)(features["targets"], logits)
        extra = sum(model.losses)
        loss = task + extra
    assert golden.relative_error(logits, file["out/logits_train"][:, :, 0, 0]) < 1e-4
    assert float(task) == pytest.approx(float(file["out/training_loss_train"]), rel=1e-4)
    assert float(extra) == pytest.approx(float(file["out/extra_loss_train"]), rel=1e-4)
    check_gradients(file, tape, loss, list(model_entries(model)))


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_output_is_that_of_the_authors_code(full, use_cache):
    file, model, features = full
    ids = generate_2017(
        model, features["inputs"], features["target_space_id"], 10, None, use_cache=use_cache
    )
    assert ids.tolist() == file["out/greedy_infer"][:, :, 0, 0].tolist()


@pytest.mark.parametrize(
    "options, parameters",
    [
        ({}, 4_631_424),
        ({"hidden_dim": 256, "num_experts": 16}, 14_137_088),
        ({"hidden_dim": 192, "separability": -2}, 6_910_272),
    ],
)
def test_number_of_parameters_is_that_of_the_authors_code(options, parameters):
    model = multimodel_2017(**options)
    assert sum(np.prod(w.shape) for w in model.trainable_variables) == parameters


# Every option of the body in some configuration, checked against the formulas in NumPy.
BODIES = {
    "sep0": {},
    "sepm2_top4": {"separability": -2, "top_k": 4},
    "sep2": {"separability": 2, "top_k": 1},
    "sep1_odd": {"separability": 1, "num_layers": 3},
    "five_kernels": {
        "kernel_scheme": "3.7.15.31.63",
        "dilation_scheme": "1.1.1.1.1",
        "separability": -1,
    },
    "dilated": {"kernel_scheme": "3.7.7.7", "dilation_scheme": "1.2.4.8", "num_layers": 4},
    "fallback": {"kernel_scheme": "no scheme"},
}


@functools.cache
def with_random_weights(**options):
    options = {**SMALL, **options}
    model = multimodel_2017(**options)
    variables = golden.random_variables(model)
    load_tensor2tensor_weights(model, variables)
    scheme = options.get("kernel_scheme", "3.7.15.31"), options.get("dilation_scheme", "1.1.1.1")
    if scheme[0] in KERNEL_SCHEMES and scheme[1] in DILATION_SCHEMES:
        dilations = [d for d, _ in zip(DILATION_SCHEMES[scheme[1]], KERNEL_SCHEMES[scheme[0]])]
    else:
        dilations = [1, 1, 1, 4]
    body = options["num_layers"], options.get("top_k", 2), dilations
    return model, {k: v.astype("float64") for k, v in variables.items()}, body


def ids(*shape, seed=1):
    x = np.random.default_rng(seed).integers(2, 50, shape).astype("int32")
    x[-1, -3:] = 0
    return x


def text_logits(x, targets, space, v, body):
    source, mask = reference.encode(x, v, *body)
    embedded = reference.embed(targets, v, "symbol_modality_50_36/target_emb")
    y = reference.decode(embedded, space, source, mask, v, *body)
    return y[:, :, 0] @ reference.table(v, "symbol_modality_50_36/softmax").T


@pytest.mark.parametrize("name", BODIES)
def test_bodies_match_the_formulas(name):
    model, v, body = with_random_weights(**BODIES[name])
    inputs, targets = ids(2, 9), ids(2, 7, seed=2)
    spaces = np.array([5, 5])
    logits = model({"inputs": inputs, "targets": targets, "target_space_id": spaces})
    x = reference.embed(inputs, v, "symbol_modality_50_36/input_emb")
    assert golden.relative_error(logits, text_logits(x, targets, 5, v, body)) < 1e-4


def test_the_reference_itself_matches_the_authors_code(full):
    file, _, features = full
    v = {k: a.astype("float64") for k, a in golden.variables(file).items()}
    x = reference.embed(features["inputs"], v, "symbol_modality_50_36/input_emb")
    logits = text_logits(x, features["targets"], 3, v, (2, 2, [1, 1, 1, 1]))
    assert golden.relative_error(logits, file["out/logits_eval"][:, :, 0, 0]) < 1e-4


@pytest.mark.parametrize("shape, grid", [((37, 41), 3), ((32, 18), 2), ((9, 16), 1)])
def test_image_to_class_matches_the_formulas(shape, grid):
    model, v, body = with_random_weights(**ONE, inputs="image", targets="class", num_classes=7)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3))
    source, _ = reference.encode(reference.image(images, v), v, *body)
    expected = reference.classes(source, v, "class_label_modality_7_36", grid)
    logits = model({"inputs": images, "target_space_id": None})
    assert golden.relative_error(logits, expected) < 1e-4


def test_text_to_class_matches_the_formulas():
    model, v, body = with_random_weights(**ONE, targets="class", num_classes=4)
    inputs = ids(2, 9)
    x = reference.embed(inputs, v, "symbol_modality_50_36/input_emb")
    source, _ = reference.encode(x, v, *body)
    expected = reference.classes(source, v, "class_label_modality_4_36")
    logits = model({"inputs": inputs, "target_space_id": np.zeros(2)})
    assert golden.relative_error(logits, expected) < 1e-4


@pytest.mark.parametrize(
    "kind, shape", [("image", (2, 40, 20, 3)), ("audio", (2, 90, 2, 1)), ("audio_spectral", None)]
)
def test_other_inputs_to_text_match_the_formulas(kind, shape):
    model, v, body = with_random_weights(**ONE, inputs=kind, audio_compression=2)
    rng = np.random.default_rng(0)
    if kind == "image":
        x = rng.integers(0, 256, shape)
        encoded = reference.image(x, v)
    elif kind == "audio":
        x = rng.integers(0, 256, shape)
        encoded = reference.audio(x, v, 2)
    else:
        x = rng.normal(size=(2, 21, 5, 1)).astype("float32")
        encoded = reference.audio(x, v, 2, "audio_spectral_modality", spectral=True)
    targets = ids(2, 4)
    features = {"inputs": x, "targets": targets, "target_space_id": np.array([1, 1])}
    expected = text_logits(encoded, targets, 1, v, body)
    # Normalisation over two nearly equal channels: the authors' own float32 is off by 2e-3.
    assert golden.relative_error(model(features), expected) < 5e-3


def test_cached_generation_is_that_of_recomputation():
    model, _, _ = with_random_weights(separability=-2, top_k=4, kernel_scheme="no scheme")
    inputs, spaces = ids(3, 6), np.array([0, 1, 2])
    cached = generate_2017(model, inputs, spaces, 12, end_id=None)
    assert (cached == generate_2017(model, inputs, spaces, 12, None, use_cache=False)).all()
    end = int(cached[0, 3])
    ended = generate_2017(model, inputs, spaces, 12, end_id=end)
    after_end = np.cumsum(ended == end, axis=1) - (ended == end) > 0
    assert after_end.any()
    assert (ended[after_end] == 0).all() and (ended == cached)[~after_end].all()


def test_a_target_space_changes_the_output_and_no_output_sees_a_later_target():
    model, _, _ = with_random_weights()
    features = {"inputs": ids(2, 6), "targets": ids(2, 8), "target_space_id": np.array([0, 1])}
    before = ops.convert_to_numpy(model(features))
    features["targets"][:, 4] += 1
    after = ops.convert_to_numpy(model(features))
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-5)
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3
    other = ops.convert_to_numpy(model({**features, "target_space_id": np.array([2, 1])}))
    assert np.abs(other[0] - after[0]).max() > 1e-3
    np.testing.assert_allclose(other[1], after[1], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"separability": -3}, {"inputs": "image", "targets": "class", "num_classes": 3}],
    ids=["text", "class"],
)
def test_saves_and_loads(options, tmp_path):
    model, _, _ = with_random_weights(**ONE, **options)
    features = {"inputs": ids(2, 6), "targets": ids(2, 5), "target_space_id": np.array([0, 1])}
    if "inputs" in options:
        features = {"inputs": np.ones((1, 33, 33, 3)), "target_space_id": np.zeros(1)}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = ops.convert_to_numpy(model(features))
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(features)), expected, atol=1e-5)


@pytest.mark.slow
def test_trains_on_the_shipped_translations_and_generates():
    pairs = list(kmm.datasets.load("en_de").take(256).as_numpy_iterator())
    sentences = [pair[key] for pair in pairs for key in ("inputs", "targets")]
    text = kmm.data.train_text_preprocessor(sentences, vocabulary_size=400)
    english, german = (
        keras.utils.pad_sequences([text(pair[key])[:24] for pair in pairs], padding="post")
        for key in ("inputs", "targets")
    )
    # One layer: middle, experts and half an encoder. What takes time here is tracing.
    model = multimodel_2017(**{**SMALL, "vocabulary_size": 400, "num_layers": 1})
    model.compile(
        keras.optimizers.Adam(3e-3, global_clipnorm=2.0),
        LabelSmoothedCrossentropy(0.1, mask_id=0),
    )
    x = {"inputs": english, "targets": german, "target_space_id": np.full(len(pairs), 8)}
    history = model.fit(x, german, batch_size=32, epochs=4, verbose=0).history["loss"]
    assert history[-1] < 0.85 * history[0] and all(np.isfinite(history))
    written = generate_2017(model, english[:2], x["target_space_id"][:2], max_length=8)
    assert all(isinstance(text.decode(row), str) for row in written)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"inputs": "video"}, "`inputs` must be one of .* inputs='video'"),
        ({"targets": "tree"}, "`targets` must be .* targets='tree'"),
        ({"targets": "class"}, "`num_classes` must be given .* num_classes=None"),
        ({"hidden_dim": 16}, "`hidden_dim` must be .* hidden_dim=16"),
        ({"num_layers": 0}, "`num_layers` must be .* num_layers=0"),
        ({"hidden_dim": 64, "separability": -2}, "num_groups=3, filters=64"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        multimodel_2017(**options)


def test_bad_generation_is_refused(full):
    with pytest.raises(ValueError, match='`model` must be a `multimodel_2017` with targets="text"'):
        generate_2017(with_random_weights(**ONE, targets="class", num_classes=4)[0], None, None, 3)
    with pytest.raises(
        ValueError, match="`max_length` must be a positive integer. Received: max_length=0"
    ):
        generate_2017(full[1], None, None, 0)
