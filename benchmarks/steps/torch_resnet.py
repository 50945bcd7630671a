"""The same network, loss and update in plain PyTorch, written for this benchmark.

Variants are joined by underscores: `float32` or `bfloat16` (autocast, weights stay float32),
`channelslast` (memory format of weights and views), `compiled` (forward pass and loss through
torch.compile). ReLUs work in place, and the optimiser on all weights of a kind in one call.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from steps.job import (
    LEARNING_RATE,
    MOMENTUM,
    TEMPERATURE,
    TRUST,
    WEIGHT_DECAY,
    Block,
    Job,
    blocks,
    kernels,
)

VERSIONS = {"torch": torch.__version__}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TORCH_NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


class Network(nn.Module):
    """Encoder and projection head: images [M, 3, S, S] -> projections [M, Z]."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.blocks = blocks(job)
        self.small = job.stem == "small"
        self.layers = nn.ModuleDict()
        for name, shape, stride, _ in kernels(job):
            *window, channels, out = shape
            if window:
                conv = nn.Conv2d(channels, out, window, stride, window[0] // 2, bias=False)
                self.layers[name] = conv
                self.layers[f"{name}_norm"] = nn.BatchNorm2d(out)
            else:
                self.layers[name] = nn.Linear(channels, out, bias=False)
                self.layers[name.replace("dense", "norm")] = nn.BatchNorm1d(out)
        self.layers["norm2"].register_parameter("bias", None)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self._conv_norm("stem_conv", images).relu_()
        if not self.small:
            x = functional.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = self._block(block, x)
        h = x.float().mean((2, 3))  # [M, F]
        y = self.layers["norm1"](self.layers["dense1"](h)).relu_()
        return self.layers["norm2"](self.layers["dense2"](y))

    def _conv_norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.layers[f"{name}_norm"](self.layers[name](x))

    def _block(self, block: Block, x: torch.Tensor) -> torch.Tensor:
        shortcut = f"{block.name}_shortcut"
        y = self._conv_norm(f"{block.name}_conv1", x).relu_()
        y = self._conv_norm(f"{block.name}_conv2", y)
        if f"{block.name}_conv3" in self.layers:
            y = self._conv_norm(f"{block.name}_conv3", y.relu_())
        y += self._conv_norm(shortcut, x) if shortcut in self.layers else x
        return y.relu_()


class Lars:
    """The update of `simclr_tf.optimizers.LARS`, on all weights of a kind together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.scaled = [weight for weight in parameters if weight.ndim > 1]
        self.plain = [weight for weight in parameters if weight.ndim <= 1]
        self.velocity = {weight: torch.zeros_like(weight) for weight in parameters}

    @torch.no_grad()
    def step(self) -> None:
        gradients = [weight.grad for weight in self.scaled]
        torch._foreach_add_(gradients, self.scaled, alpha=WEIGHT_DECAY)
        of_weights = torch.stack(torch._foreach_norm(self.scaled))
        of_gradients = torch.stack(torch._foreach_norm(gradients))
        ratio = TRUST * of_weights / of_gradients
        ratio = torch.where((of_weights > 0) & (of_gradients > 0), ratio, 1.0)
        torch._foreach_mul_(gradients, list(ratio.unbind()))
        self._move(self.scaled, gradients)
        self._move(self.plain, [weight.grad for weight in self.plain])
        for weight in self.velocity:
            weight.grad = None

    def _move(self, weights: list[nn.Parameter], gradients: list[torch.Tensor]) -> None:
        velocity = [self.velocity[weight] for weight in weights]
        torch._foreach_mul_(velocity, MOMENTUM)
        torch._foreach_add_(velocity, gradients, alpha=LEARNING_RATE)
        torch._foreach_sub_(weights, velocity)


class TrainStep:
    def __init__(self, job: Job, variant: str, views: np.ndarray) -> None:
        torch.set_num_threads(job.cores)
        words = variant.split("_")
        layout = torch.channels_last if "channelslast" in words else torch.contiguous_format
        self.dtype = torch.bfloat16 if "bfloat16" in words else torch.float32
        if DEVICE == "cuda":  # as on our side: kernels are tried out, float32 is no TF32
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        self.network = Network(job).train().to(DEVICE, memory_format=layout)
        self.optimizer = Lars(list(self.network.parameters()))
        self.views = [
            torch.from_numpy(view)
            .permute(0, 3, 1, 2)
            .to(DEVICE, self.dtype)
            .contiguous(memory_format=layout)
            for view in views
        ]
        half = torch.arange(job.batch_size, device=DEVICE)
        self.positives = torch.cat([half + job.batch_size, half])
        self.contrast = torch.compile(self._contrast) if "compiled" in words else self._contrast

    def run(self) -> torch.Tensor:
        loss = self.contrast(*self.views)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def loss_of(self, result: torch.Tensor) -> float:
        return result.item()

    def weights(self) -> dict[str, np.ndarray]:
        held = {name: weight.detach().cpu() for name, weight in self._named().items()}
        return {name: outer(weight).numpy() for name, weight in held.items()}

    def load(self, weights: dict[str, np.ndarray]) -> None:
        for name, weight in self._named().items():
            weight.data.copy_(inner(torch.from_numpy(weights[name])))

    def _contrast(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """NT-Xent, all of it in float32."""
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            z = self.network(torch.cat([first, second]))  # [2N, Z], view 1 first
        z = functional.normalize(z.float(), dim=1)
        logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-1e30)
        return functional.cross_entropy(logits, self.positives)

    def _named(self) -> dict[str, nn.Parameter]:
        found = {}
        for layer, module in self.network.layers.items():
            kernel = "gamma" if "norm" in layer else "kernel"
            for name, weight in module.named_parameters():
                found[f"{layer}/{'beta' if name == 'bias' else kernel}"] = weight
        return found


class Memory:
    """The most device memory that torch has added to what it held when this was made."""

    def __init__(self) -> None:
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._held = torch.cuda.memory_allocated()

    def peak(self) -> int | None:
        """Returns bytes; None where there is no GPU."""
        return torch.cuda.max_memory_allocated() - self._held if DEVICE == "cuda" else None


def uses_tf32() -> bool:
    """Tells whether products of float32 are rounded to TF32."""
    return DEVICE == "cuda" and torch.backends.cuda.matmul.allow_tf32


def outer(weight: torch.Tensor) -> torch.Tensor:
    """Brings a kernel of torch into the order of TensorFlow."""
    return (
        weight.permute(2, 3, 1, 0) if weight.ndim == 4 else weight.T if weight.ndim == 2 else weight
    )


def inner(weight: torch.Tensor) -> torch.Tensor:
    """Brings a kernel of TensorFlow into the order of torch."""
    return (
        weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T if weight.ndim == 2 else weight
    )


def open_step(job: Job, variant: str, views: np.ndarray) -> TrainStep:
    """Builds the step; `views` are float32 [2, N, S, S, 3]."""
    return TrainStep(job, variant, views)
