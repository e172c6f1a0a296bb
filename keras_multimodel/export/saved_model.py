"""SavedModel: raw batches in, raw outputs out, the loop inside."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_multimodel.export.programs import TaskPrograms, graph_of
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
        specs = []
        for key, spec in zip(self._programs.nets, self._programs.specs()):
            raw = self.readers[key].raw_spec if key in self.readers else None
            specs.append(spec if raw is None else tf.TensorSpec((None, *raw.shape), raw.dtype, key))
        return specs

    def outputs(self, *batch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the raw outputs under `"outputs"`, beside what the task returns for arrays."""
        arrays = tuple(self._read(key, part) for key, part in zip(self._programs.nets, batch))
        raw = None if self._task.has_parts or not self.readers else batch[0]
        state = None
        if self._constraint is not None and raw is not None and self.writer is not None:
            state = self.writer.constraint_state(raw)
        constrained = () if state is None else (self._constraint, state)
        if constrained:
            found = self._programs.write(arrays, *constrained)
        else:
            found = self._function(*arrays)
        key = "ids" if self._task.autoregressive else "prediction"
        written = found[key] if self.writer is None else self.writer.write(found[key], raw)
        return {"outputs": written, **found}

    def _read(self, key, part):
        if key not in self.readers:
            return part
        array = self.readers[key].read(part)
        limit = self._task.max_input_length
        if limit is not None and array.shape.rank > 1 and array.shape[1] is None:
            message = f"`inputs` of task {self._task.name!r} must have at most {limit} positions"
            tf.debugging.assert_less_equal(tf.shape(array)[1], limit, message)
        return array


def _form(net):
    """Returns the `GraphForm` of a net's preprocessor, or None."""
    return getattr(getattr(net, "preprocessor", None), "graph_form", lambda: None)()


def _reads(form):
    return form is not None and form.raw_spec is not None
