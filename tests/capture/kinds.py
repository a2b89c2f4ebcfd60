"""Every kind of Keras model whose state can be captured, tiny and compiled."""

import keras
import numpy as np

layers, optimizers = keras.layers, keras.optimizers


def compiled(*stack, optimizer="adam"):
    model = keras.Sequential([keras.Input((4,)), *stack])
    model.compile(optimizer, "mse")
    return model


def plain(optimizer):
    return compiled(layers.Dense(3, activation="tanh"), layers.Dense(2), optimizer=optimizer)


OPTIMIZERS = {
    "adam": optimizers.Adam,
    "adamw": optimizers.AdamW,
    "amsgrad": lambda: optimizers.Adam(amsgrad=True),
    "nadam": optimizers.Nadam,
    "adamax": optimizers.Adamax,
    "adagrad": optimizers.Adagrad,
    "adadelta": optimizers.Adadelta,
    "adafactor": optimizers.Adafactor,
    "ftrl": optimizers.Ftrl,
    "lamb": optimizers.Lamb,
    "lion": optimizers.Lion,
    "muon": optimizers.Muon,
    "rmsprop": optimizers.RMSprop,
    "centered": lambda: optimizers.RMSprop(momentum=0.9, centered=True),
    "sgd": optimizers.SGD,
    "momentum": lambda: optimizers.SGD(momentum=0.9, nesterov=True),
    "ema": lambda: optimizers.Adam(use_ema=True, ema_overwrite_frequency=3),
    "accumulating": lambda: optimizers.Adam(gradient_accumulation_steps=3),
    "schedule": lambda: optimizers.Adam(optimizers.schedules.CosineDecay(0.01, 8)),
    "loss scaling": lambda: optimizers.LossScaleOptimizer(
        optimizers.AdamW(use_ema=True), dynamic_growth_steps=3
    ),
    "several": lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(optimizers.SGD(momentum=0.9), {".*kernel": optimizers.Adam()})
    ),
    "custom": lambda: Signs(0.01),
}


@keras.saving.register_keras_serializable("tests")
class Signs(optimizers.Optimizer):
    """An optimizer of a user's own, whose state nobody else understands."""

    def build(self, variables):
        super().build(variables)
        self.last = self.add_optimizer_variables(variables, "last")

    def update_step(self, gradient, variable, learning_rate):
        last = self.last[self._get_variable_index(variable)]
        self.assign_sub(variable, learning_rate * keras.ops.sign(gradient + last))
        self.assign(last, gradient)


@keras.saving.register_keras_serializable("tests")
class Twice(layers.Layer):
    """A layer of a user's own, with two layers of one name and a weight beside them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.one = layers.Dense(4, name="same")
        self.two = layers.Dense(4, name="same")

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")
        self.calls = self.add_weight(shape=(), dtype="int32", trainable=False, name="calls")
        self.one.build(shape)
        self.two.build(shape)

    def call(self, x):
        return self.factor * self.two(self.one(x))


@keras.saving.register_keras_serializable("tests")
class Pair(keras.Model):
    """A model that trains its halves by optimizers of its own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.left, self.right = layers.Dense(3), layers.Dense(2)
        self.left_optimizer = optimizers.Adam()
        self.others = {"right": optimizers.SGD(momentum=0.9)}

    def build(self, shape):
        self.left.build(shape)
        self.right.build((None, 3))

    def call(self, x):
        return self.right(self.left(x))


def pair():
    model = Pair()
    model.compile(loss="mse")
    model.build((None, 4))
    return model


def lora():
    model = plain("adam")
    model.layers[0].enable_lora(2)
    model.compile("adam", "mse")
    return model


def frozen():
    model = plain("adam")
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    return model


def mixed(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return compiled(layers.Dense(3), layers.BatchNormalization(), layers.Dense(2))
    finally:
        keras.config.set_dtype_policy(before)


def shared():
    entry = keras.Input((4,))
    layer = layers.Dense(4)
    model = keras.Model(entry, layer(layer(entry)))
    model.compile("adam", "mse")
    return model


def nested():
    inner = compiled(layers.Dense(3), layers.BatchNormalization(), optimizer="sgd")
    return compiled(inner, layers.Dropout(0.1), layers.Dense(2))


def attention():
    entry = keras.Input((2, 4))
    heads = layers.MultiHeadAttention(2, 2, dropout=0.1)
    model = keras.Model(entry, layers.LayerNormalization()(heads(entry, entry)))
    model.compile("adam", "mse")
    return model


def quantized(mode):
    model = plain("adam")
    for layer in model.layers:
        layer.quantize(mode)
    model.compile("adam", "mse")
    return model


def torch_module():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    return compiled(layers.TorchModuleWrapper(module, output_shape=(None, 3)), layers.Dense(2))


MODELS = {
    "attention": attention,
    "bfloat16": lambda: compiled(layers.Dense(3, dtype="bfloat16"), layers.Dense(2)),
    "embedding": lambda: compiled(layers.Embedding(5, 3), layers.LSTM(2)),
    "float8": lambda: quantized("float8"),
    "frozen": frozen,
    "int8": lambda: quantized("int8"),
    "lora": lora,
    "mixed_bfloat16": lambda: mixed("mixed_bfloat16"),
    "mixed_float16": lambda: mixed("mixed_float16"),
    "nested": nested,
    "pair": pair,
    "seeded": lambda: compiled(layers.Dropout(0.5, seed=7), layers.Dense(2)),
    "shared": shared,
    "twice": lambda: compiled(Twice(), layers.Dense(2)),
}
if keras.backend.backend() == "torch":
    MODELS["torch module"] = torch_module

KINDS = {name: lambda make=make: plain(make()) for name, make in OPTIMIZERS.items()} | MODELS


def everything(model):
    """All that a training changes: variables, torch buffers, optimizers; copied."""
    held = {id(v): v for layer in model._flatten_layers() for v in layer.variables}
    for layer in model._flatten_layers():
        for value in vars(layer).values():
            several = value.values() if isinstance(value, dict) else [value]
            for one in several:
                if isinstance(one, optimizers.Optimizer) and (
                    int(one.iterations) or int(one._iterations)  # of batches that are accumulated
                ):
                    held |= {id(v): v for v in one.variables}
        if isinstance(layer, layers.TorchModuleWrapper):
            held |= {id(buffer): buffer for buffer in layer.module.buffers()}
    return [np.array(keras.ops.convert_to_numpy(one)) for one in held.values()]


def train(model, steps, seed=0):
    """Steps of the optimizers by gradients that the seed draws, and statistics of one batch."""
    rng = np.random.default_rng(seed)
    groups = [(model.optimizer, model.trainable_variables)]
    if isinstance(model, Pair):
        groups = [
            (model.left_optimizer, model.left.trainable_variables),
            (model.others["right"], model.right.trainable_variables),
        ]
    for _ in range(steps):
        for optimizer, variables in groups:
            gradients = [
                keras.ops.convert_to_tensor(rng.normal(0, 0.1, v.shape), dtype=v.dtype)
                for v in variables
            ]
            _apply(optimizer, gradients, variables)
    for variable in model.non_trainable_variables:
        if variable.dtype == "float32":
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    for layer in model._flatten_layers():
        if isinstance(layer, layers.TorchModuleWrapper):
            layer(keras.ops.convert_to_tensor(rng.normal(size=(8, 4)), dtype="float32"))
    return model


def _apply(optimizer, gradients, variables):
    if keras.backend.backend() != "jax":
        optimizer.apply(gradients, variables)
        return
    if not optimizer.built:
        optimizer.build(variables)
    state = [[v.value for v in held] for held in (optimizer.variables, variables)]
    weights, slots = optimizer.stateless_apply(state[0], gradients, state[1])
    for variable, value in zip([*variables, *optimizer.variables], [*weights, *slots], strict=True):
        variable.assign(value)
