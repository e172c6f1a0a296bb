"""Writes what layers, losses, experts and small models give on the backend of `KERAS_BACKEND`.

Run by `test_backends.py`, in a process for each backend, which takes seconds to import it:
`python -m tests.backend_outputs PART FILE`.
"""

import json
import sys

import keras
import numpy as np
from keras import ops

from keras_multimodel.layers import (
    CategoryModality,
    ImageModality,
    LabelsModality,
    MoELayer,
    NumberModality,
    SeriesModality,
    TextModality,
)
from keras_multimodel.layers.modalities.xception import ExitFlow
from keras_multimodel.losses import Huber, LabelsCrossentropy, LabelSmoothedCrossentropy
from keras_multimodel.metrics import (
    LabelsF1,
    LogPerplexity,
    MeanAbsoluteError,
    RSquared,
    TokenAccuracy,
    TopKAccuracy,
)
from tests import catalog
from tests.generation import writers
from tests.layers.moe import moe_cases
from tests.models.small_models import HIDDEN_DIM, build, ids, make_batch, make_tasks, set_weights


def numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def layers():
    """Yields the output of every layer of the catalog, with padding and without."""
    for name in catalog.CATALOG:
        layer = catalog.make(name)
        x, mask, source, source_mask = catalog.sequences(3, 9, 5)
        yield name, catalog.run(layer, x, mask, source, source_mask)
        mask[1, 4:] = mask[2] = source_mask[1, 2:] = source_mask[2] = False
        y = catalog.run(layer, x, mask, source, source_mask)
        yield f"{name}/padded", y[:2] * mask[:2, :, None]


def modality_nets():
    """Yields the outputs of the nets, in both directions where they have them."""
    rng = np.random.default_rng(0)
    text = TextModality(7, 8, tie_weights=False)
    sequence = rng.normal(size=(2, 6, 8)).astype("float32")
    symbols = ids(rng, (4, 2), 7)
    text(symbols)
    yield "text", numpy(set_weights(text)(symbols))
    yield "text/reverse", numpy(text(sequence, reverse=True))
    image = ImageModality(8, (9, 7, 3), num_blocks=1)
    pixels = rng.integers(0, 256, (2, 9, 7, 3)).astype("uint8")
    image(pixels)
    yield "image", numpy(set_weights(image)(pixels))
    classes = CategoryModality(5, 8)
    classes(sequence, reverse=True)
    mask = np.arange(6) < [[6], [3]]
    numbers, labels, series = NumberModality(8, 2), LabelsModality(3, 8), SeriesModality(8, 1, 4)
    for name, net, size in (("numbers", numbers, 2), ("several labels", labels, 3)):
        vectors = rng.integers(0, 2, (2, size)).astype("float32")
        vectors[1, 0] = np.nan
        net(vectors), net(sequence, reverse=True)
        yield name, numpy(set_weights(net)(vectors))
        yield f"{name}/reverse", numpy(net(sequence, mask=mask, reverse=True))
    series(sequence[..., :2])
    yield "series", numpy(set_weights(series)(sequence[..., :2]))
    yield "category", numpy(set_weights(classes)(sequence, mask=mask, reverse=True))
    flow = ExitFlow(5)
    grid = rng.normal(size=(2, 5, 3, 8)).astype("float32")
    flow(grid)
    yield "exit_flow", numpy(set_weights(flow)(grid))


def scores():
    """Yields the losses and metrics."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 4, 7)).astype("float32"), ids(rng, (4, 2, 1), 7)
    yield "loss", numpy(LabelSmoothedCrossentropy(mask_id=0)(labels, logits))
    numbers, logits_of_labels = rng.normal(size=(2, 5, 2)).astype("float32")
    numbers[0, 0] = np.nan
    yield "huber", numpy(Huber()(numbers, logits_of_labels))
    labels_of_rows = np.where(np.isnan(numbers), np.nan, numbers > 0).astype("float32")
    yield "labels", numpy(LabelsCrossentropy()(labels_of_rows, logits_of_labels))
    for metric in (MeanAbsoluteError(mean=2.0), RSquared(2), LabelsF1()):
        y = labels_of_rows if isinstance(metric, LabelsF1) else numbers
        metric.update_state(y, logits_of_labels)
        yield metric.name, numpy(metric.result())
    for metric in (LogPerplexity(mask_id=0), TokenAccuracy(mask_id=0), TopKAccuracy(3)):
        metric.update_state(labels, logits)
        yield metric.name, numpy(metric.result())


def experts():
    """Yields outputs and gradients of experts, compiled on all backends but TensorFlow."""
    for name, values in moe_cases.results(jit=keras.backend.backend() != "tensorflow"):
        for i, value in enumerate(values):
            yield f"moe/{name}/{i}", value


def written():
    """Yields as JSON what models write."""
    for name, outputs in writers.written().items():
        yield f"written/{name}", json.dumps(outputs)


def model():
    """Yields the logits of a whole model, and what it makes of them."""
    model = set_weights(build(make_tasks()))
    x, _ = make_batch(model.tasks.values(), (6, 3))
    for name, logits in model(x, training=False).items():
        yield f"model/{name}", numpy(logits)
    (written,) = model.generate("copy", [np.array([3, 4, 1])], max_length=3)
    yield "model/generated", np.trim_zeros(np.asarray(written)).astype("float32")


def training(jit_compile: bool | str = "auto"):
    """Yields the losses of twenty steps without noise, from equal weights."""
    moe = MoELayer(HIDDEN_DIM, num_experts=4, top_k=2, router="top_k")
    sizes = {"num_encoder_blocks": 1, "num_mixer_blocks": 0}
    model = set_weights(build(make_tasks("copy", "digits"), moe=moe, **sizes))
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9, global_clipnorm=1.0)
    model.compile(optimizer, jit_compile=jit_compile)
    batch, losses = make_batch(model.tasks.values(), (6, 3)), []
    for _ in range(20):
        model.reset_metrics()
        losses.append(float(model.train_on_batch(*batch, return_dict=True)["loss"]))
    yield "training", np.array(losses, "float32")


# What the tests ask for by name, since models cost ten times what layers do.
PARTS = {
    "layers": (layers, modality_nets, scores, experts),
    "models": (model, written, training),
}


def outputs(part: str) -> dict[str, np.ndarray]:
    """Returns the outputs of a part by name."""
    keras.utils.set_random_seed(0)
    return {name: np.asarray(value) for make in PARTS[part] for name, value in make()}


if __name__ == "__main__":
    np.savez(sys.argv[2], **outputs(sys.argv[1]))
