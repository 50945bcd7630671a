"""LARS, and the optimisers of Keras with the weight decay that the papers mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule
Predicate = Callable[[keras.Variable], bool]
RateFactors = Callable[[keras.Variable], float]


@keras.saving.register_keras_serializable("simclr_tf")
def is_norm_or_bias(variable: keras.Variable) -> bool:
    """Tells the scales, offsets and biases, which no optimiser here decays, from the kernels.

    They are the variables of rank 0 or 1. (Names would not do: in Keras 3 a variable of a
    BatchNorm is called just "gamma".)
    """
    return len(variable.shape) <= 1


@keras.saving.register_keras_serializable("simclr_tf")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling (arXiv 1708.03888) as SimCLR's reference applies it.

    Per variable w with gradient g, momentum m, decay b and trust coefficient c:

        g <- g + b w
        v <- m v + lr (c |w| / |g|) g        the ratio is 1 where either norm is 0
        w <- w - v

    Excluded variables get neither decay nor the ratio: plain momentum.

    Args:
        learning_rate: A number or a schedule.
        momentum: m.
        weight_decay: b, coupled: it passes through the ratio and the momentum.
        trust_coefficient: c.
        exclude: Tells which variables are excluded; by default scales, offsets and biases. To be
            saved with a model it must be known to Keras (`register_keras_serializable`).
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        exclude: Predicate = is_norm_or_bias,
        name: str = "lars",
        **kwargs: Any,
    ) -> None:
        # Keras' own weight_decay is decoupled, so it is not handed on.
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.coupled_decay = weight_decay
        self.trust_coefficient = trust_coefficient
        self.exclude = exclude

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        (self.velocities,) = self.add_optimizer_variables(variables, ["velocity"])

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        velocity = self.velocities[self._get_variable_index(variable)]
        rate = tf.cast(learning_rate, variable.dtype)
        gradient = tf.cast(gradient, variable.dtype)
        if not self.exclude(variable):
            weight = tf.convert_to_tensor(variable)
            gradient += self.coupled_decay * weight
            rate *= self._trust_ratio(weight, gradient)
        step = self.momentum * tf.convert_to_tensor(velocity) + rate * gradient
        self.assign(velocity, step)
        self.assign_sub(variable, step)

    def _trust_ratio(self, weight: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        weight_norm, gradient_norm = tf.norm(weight), tf.norm(gradient)
        ratio = tf.math.divide_no_nan(self.trust_coefficient * weight_norm, gradient_norm)
        return tf.where((weight_norm > 0) & (gradient_norm > 0), ratio, tf.ones_like(ratio))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.coupled_decay,
            "trust_coefficient": self.trust_coefficient,
            "exclude": keras.saving.serialize_keras_object(self.exclude),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> LARS:
        if "exclude" in config:
            exclude = keras.saving.deserialize_keras_object(config["exclude"], custom_objects)
            config = {**config, "exclude": exclude}
        return super().from_config(config, custom_objects)


class _L2:
    """Adds an L2 term's gradient, decay x w, before the optimiser's own step.

    This is the decay of the reference (a term in the loss) and of PyTorch's SGD and Adam. Keras'
    `weight_decay` is the decoupled one, which is what AdamW means and these do not.
    """

    def __init__(self, *args: Any, l2: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.l2 = l2

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        if self.l2 and not is_norm_or_bias(variable):
            gradient += self.l2 * tf.convert_to_tensor(variable)
        super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]

    def get_config(self) -> dict:
        return {**super().get_config(), "l2": self.l2}  # type: ignore[misc]


class _RateFactors:
    """Multiplies the learning rate of each variable by a number of its own.

    It comes first among the bases, so that whatever a step does with the rate sees the product,
    decoupled weight decay included.

    Args:
        rate_factors: A number of at least 0 for each variable, in the order in which the optimiser
            is built on them; 0 leaves a variable and its slots as they are. None: 1 for each.
    """

    def __init__(
        self, *args: Any, rate_factors: Sequence[float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.rate_factors = None if rate_factors is None else tuple(rate_factors)

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        if self.rate_factors is not None:
            factor = self.rate_factors[self._get_variable_index(variable)]
            if not factor:
                return
            learning_rate = tf.convert_to_tensor(learning_rate) * factor
            if self.weight_decay is not None and self._use_weight_decay(variable):
                rate = tf.cast(learning_rate * self.weight_decay, variable.dtype)
                self.assign_sub(variable, tf.convert_to_tensor(variable) * rate)
        super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        # Keras' own way to decay, before the step, knows one rate for all variables.
        if self.rate_factors is None:
            super()._apply_weight_decay(variables)  # type: ignore[misc]

    def get_config(self) -> dict:
        return {**super().get_config(), "rate_factors": self.rate_factors}  # type: ignore[misc]


@keras.saving.register_keras_serializable("simclr_tf")
class _LARS(_RateFactors, LARS):
    pass


@keras.saving.register_keras_serializable("simclr_tf")
class _SGD(_RateFactors, _L2, keras.optimizers.SGD):
    pass


@keras.saving.register_keras_serializable("simclr_tf")
class _Adam(_RateFactors, _L2, keras.optimizers.Adam):
    pass


@keras.saving.register_keras_serializable("simclr_tf")
class _AdamW(_RateFactors, keras.optimizers.AdamW):
    pass


@keras.saving.register_keras_serializable("simclr_tf")
class _Nadam(_RateFactors, _L2, keras.optimizers.Nadam):
    pass


@keras.saving.register_keras_serializable("simclr_tf")
class _Lamb(_RateFactors, keras.optimizers.Lamb):
    pass


_Maker: TypeAlias = Callable[..., keras.optimizers.Optimizer]

# Each is called with the rate, the weight decay, and `rate_factors` by name.
_MAKERS: dict[str, _Maker] = {
    "lars": lambda rate, decay, **rest: _LARS(rate, weight_decay=decay, **rest),
    "sgd": lambda rate, decay, **rest: _SGD(rate, momentum=0.9, l2=decay, name="sgd", **rest),
    "nesterov": lambda rate, decay, **rest: _SGD(
        rate, momentum=0.9, nesterov=True, l2=decay, name="nesterov", **rest
    ),
    "adam": lambda rate, decay, **rest: _Adam(rate, l2=decay, name="adam", **rest),
    "adamw": lambda rate, decay, **rest: _AdamW(rate, weight_decay=decay, name="adam_w", **rest),
    "nadam": lambda rate, decay, **rest: _Nadam(rate, l2=decay, name="nadam", **rest),
    "lamb": lambda rate, decay, **rest: _Lamb(rate, weight_decay=decay, name="lamb", **rest),
}
NAMES = tuple(_MAKERS)


def make_optimizer(
    name: str,
    *,
    learning_rate: float | Schedule,
    weight_decay: float,
    variables: list[keras.Variable],
    rate_factors: RateFactors | None = None,
) -> keras.optimizers.Optimizer:
    """Builds an optimiser for `variables`; scales, offsets and biases are never decayed.

    Args:
        name: One of `NAMES`. "sgd" and "nesterov" have momentum 0.9.
        learning_rate: A number or a schedule.
        weight_decay: Coupled (L2) for lars, sgd, nesterov, adam and nadam; decoupled for adamw,
            lamb.
        variables: The trainable variables, in the order in which gradients will come.
        rate_factors: Returns by how much the learning rate of one of the variables is multiplied,
            at least 0; 0 leaves it as it is. Asked once, here. None: 1 for all.

    Raises:
        ValueError: An optimiser that does not exist, or a factor below 0.
    """
    if name not in _MAKERS:
        raise ValueError(f"Expected an optimizer in {NAMES}, got {name!r}.")
    factors = None if rate_factors is None else [float(rate_factors(v)) for v in variables]
    if factors and not min(factors) >= 0.0:
        raise ValueError(f"Expected rate factors of at least 0, got {min(factors)}.")
    optimizer = _MAKERS[name](learning_rate, weight_decay, rate_factors=factors)
    if name in ("adamw", "lamb"):
        optimizer.exclude_from_weight_decay(var_list=[v for v in variables if is_norm_or_bias(v)])
    optimizer.build(variables)
    return optimizer
