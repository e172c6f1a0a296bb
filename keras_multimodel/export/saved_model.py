"""SavedModel: raw batches in, raw outputs out, the loop inside."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_multimodel.export.programs import TaskPrograms, graph_of, served_names
from keras_multimodel.generation.generate import TaskGenerator

RAW, ARRAYS, LOGITS = "serving_default", "arrays", "logits"


def write_saved_model(
    generator: TaskGenerator, path: Path, max_length: int, raw: bool
) -> dict[str, Any]:
    """Writes a task as a SavedModel, and returns its description.

    Args:
        generator: what generates for the task.
        path: the folder.
        max_length: the most ids to write.
        raw: whether there is a signature that takes raw inputs.
    """
    programs = TaskPrograms(generator, max_length, "tensorflow")
    module = programs.module
    module.arrays = graph_of(lambda *arrays: _outputs(programs, arrays), programs.specs())
    signatures = {RAW: module.arrays, ARRAYS: module.arrays}
    if programs.task.autoregressive:
        targets = tf.TensorSpec((None, None), "int32", "targets")
        module.logits = graph_of(programs.logits_of, [*programs.specs(), targets])
        signatures[LOGITS] = module.logits
    packages: set[str] = set()
    if raw:
        server = _RawTask(programs, module.arrays)
        # A `tf.Module`, which keeps the vocabularies: an attribute of what is saved.
        module.raw = server
        module.serve = graph_of(server.outputs, server.specs)
        signatures[RAW] = module.serve
        packages.update(*(form.packages for form in server.forms))
    tf.saved_model.save(module, str(path), signatures=signatures)
    return {"packages": sorted(packages)}


def _outputs(programs, arrays):
    if programs.task.autoregressive:
        return programs.write(arrays)
    found = programs.classify(*arrays)
    return {**found, "prediction": programs.predict(found["logits"])}


class _RawTask(tf.Module):
    """Preprocessing, the task, and what turns its predictions back.

    A part whose preprocessor has no `GraphForm` is read as an array.

    Args:
        programs: the functions of the task.
        function: the one of arrays, which is traced already.
    """

    def __init__(self, programs: TaskPrograms, function: Any):
        super().__init__()
        self._programs, self._function = programs, function
        self._task = task = programs.task
        forms: dict[str, Any] = {key: _form(net) for key, net in programs.nets.items()}
        self.readers = {key: form for key, form in forms.items() if _reads(form)}
        self.writer = _form(task.targets)
        self._constraint = getattr(task.targets.preprocessor, "constraint", lambda: None)()

    @property
    def forms(self) -> list:
        """What stands in the place of preprocessors."""
        return [*self.readers.values(), *([] if self.writer is None else [self.writer])]

    @property
    def specs(self) -> list[tf.TensorSpec]:
        """What a batch holds: raw examples where there is a reader, arrays elsewhere."""
        specs, names = [], served_names(self._task)
        for key, spec in zip(names, self._programs.specs()):
            if key in self.readers:
                raw = self.readers[key].raw_spec
                spec = tf.TensorSpec((None, *raw.shape), raw.dtype, names[key])
            specs.append(spec)
        return specs

    def outputs(self, *batch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the raw outputs under `"outputs"`, beside what the task returns for arrays."""
        rows = self._task.has_parts
        raw: Any = dict(zip(self._task.parts, batch)) if rows else batch[0]
        arrays = [
            self._read(key, part, batch[-1][:, i] if rows else None)
            for i, (key, part) in enumerate(zip(self._task.parts, batch))
        ]
        arrays += batch[-1:] if rows else ()
        state = None
        if self._constraint is not None and self.writer is not None:
            state = self.writer.constraint_state(raw)
        if state is None:
            found = self._function(*arrays)
        else:
            found = self._programs.write(tuple(arrays), self._constraint, state)
        key = "ids" if self._task.autoregressive else "prediction"
        written = found[key] if self.writer is None else self.writer.write(found[key], raw)
        return {"outputs": written, **found}

    def _read(self, key, part, given):
        """Returns the array of a part of a batch; `given` is bool `(batch,)`, None for all."""
        if key not in self.readers:
            return part
        read, net = self.readers[key].read, self._programs.nets[key]
        array = read(part) if given is None else _read_given(read, part, given, net)
        array = tf.ensure_shape(array, (None, *net.example_shape))
        limit = self._task.max_input_length
        if limit is not None and array.shape.rank > 1 and array.shape[1] is None:
            message = f"`inputs` of task {self._task.name!r} must have at most {limit} positions"
            short = tf.debugging.assert_less_equal(tf.shape(array)[1], limit, message)
            with tf.control_dependencies([short]):
                array = tf.identity(array)
        return array


def _read_given(read, part, given, net):
    """Reads the rows that have a part, since others may hold nothing that can be read."""
    # As `generate` has it, a part that no row has is one position of padding.
    missing = tf.zeros([1, *(size or 1 for size in net.example_shape)], net.example_dtype)
    rows = tf.cond(
        tf.reduce_any(given), lambda: read(tf.boolean_mask(part, given)), lambda: missing
    )
    places = tf.maximum(tf.cumsum(tf.cast(given, tf.int32)) - 1, 0)
    given = tf.reshape(given, [-1, *[1] * len(net.example_shape)])
    return tf.where(given, tf.gather(rows, places), tf.zeros([], net.example_dtype))


def _form(net):
    """Returns the `GraphForm` of a net's preprocessor, or None."""
    return getattr(getattr(net, "preprocessor", None), "graph_form", lambda: None)()


def _reads(form):
    return form is not None and form.raw_spec is not None
