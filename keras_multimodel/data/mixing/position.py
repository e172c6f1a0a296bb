"""Where the reading of a mixture stands."""

import json

from keras_multimodel.ops.first_look import is_first_look


class Position:
    """Which epoch of a mixture comes next, and how many of its steps are left out.

    Given to `kmm.data.mix`, it decides what the next iteration of the mixture gives: epoch `epoch`
    without its first `step` steps. The iteration after that gives the next epoch, unless `move` is
    called. What an epoch holds depends on the mixture and the epoch's number alone, so an iteration
    can be given again, or be taken up where it was cut. `kmm.callbacks.Resume` does so.

    Args:
        epoch: number of the next epoch, from 0.
        step: how many of its first steps are left out.

    Raises:
        ValueError: an argument is not a natural number.

    Example:

    ```python
    position = kmm.data.Position()
    train = kmm.data.mix(datasets, batch_size=64, position=position)
    model.fit(train, epochs=10, callbacks=[kmm.callbacks.Resume("run", position, save_freq=100)])
    ```
    """

    def __init__(self, epoch: int = 0, step: int = 0):
        self._mixture = None
        self._schedule = None
        self._steps = None
        self.move(epoch, step)

    def move(self, epoch: int, step: int = 0) -> None:
        """Sets what the next iteration gives.

        Args:
            epoch: number of the epoch, from 0.
            step: how many of its first steps are left out.

        Raises:
            ValueError: an argument is not a natural number, or the epoch has fewer steps.
        """
        for name, value in (("epoch", epoch), ("step", step)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"`{name}` must be a natural number. Received: {name}={value}")
        if self._steps is not None and step > self._steps:
            raise ValueError(
                f"`step` must be at most the {self._steps} steps of an epoch. Received: step={step}"
            )
        self.epoch = epoch
        self.step = step

    def begin(self) -> tuple[int, int]:
        """Returns epoch and step of an iteration that begins, and moves to the next epoch.

        The look that `fit` takes at a first batch is one at epoch 0, and moves nothing.
        """
        if is_first_look():
            return 0, 0
        begun = self.epoch, self.step
        self.epoch, self.step = self.epoch + 1, 0
        return begun

    def bind(self, mixture: dict, schedule=None) -> None:
        """Tells the position whose it is; `mix` does so.

        Args:
            mixture: what the contents of an epoch depend on, in a form that JSON can hold.
            schedule: the schedule of the mixture, or None.

        Raises:
            ValueError: the position is another mixture's, or is past the steps of an epoch.
        """
        if self._mixture is not None:
            raise ValueError(
                "`position` must be new for every mixture. Received: that of a mixture of "
                f"{', '.join(self._mixture['rows'])}"
            )
        self._mixture = json.loads(json.dumps(mixture))  # as it comes back from a file
        self._schedule, self._steps = schedule, mixture["steps"]
        self.move(self.epoch, self.step)

    @property
    def mixture(self) -> dict | None:
        """What the contents of an epoch depend on; None before `mix` has the position."""
        return self._mixture

    @property
    def schedule(self):
        """The schedule of the mixture, or None."""
        return self._schedule

    def check_steps(self, steps: int | None) -> None:
        """Checks that an epoch of `fit` is one of the mixture.

        Args:
            steps: the number of steps of an epoch of `fit`.

        Raises:
            ValueError: the mixture has another number, or there is no mixture.
        """
        if self._mixture is None:
            raise ValueError(
                "`position` must be given to `kmm.data.mix` too. Received: one of no mixture"
            )
        if steps != self._steps:
            raise ValueError(
                f"`fit` must go through the mixture of the position itself, {self._steps} steps in "
                "an epoch: use `steps` of `kmm.data.mix` instead of `steps_per_epoch` and `repeat`."
                f" Received: {steps} steps in an epoch"
            )
