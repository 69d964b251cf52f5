"""Run a network on torch, and collect the features of its stages."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UserError, reason_of
from zoo.inference.outputs import EMBEDDING
from zoo.models.backbones import embedding_size, stage_parts
from zoo.system.hardware import devices_here
from zoo.system.torch_defaults import float32_on_cpu, full_float32
from zoo.transforms.preprocess import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle


TensorState: TypeAlias = tuple[tuple[object, ...], ...]
"""Where each tensor of a network lies, and how often it was written to."""


class TorchEngine:
    """A torch module on a CPU or GPU, in fp32 (never TF32) or under bf16 autocast.

    In fp32 on a CPU it runs a copy with folded batch norms, if that copy gives the same features to 1e-5; ``model``
    itself stays unchanged.
    """

    backend = "torch"

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, *, device: str, precision: str) -> None:
        import torch

        self.device, self.precision = device, precision
        self.model: nn.Module = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.dim = embedding_size(model)
        self._shape = preprocessing.channels, preprocessing.input_size
        self.versions = {p: version(p) for p in ("torch", "timm")}
        self._folded: tuple[TensorState, nn.Module] | None = None  # and of which tensors
        self._process = os.getpid()
        self._mean, self._std = (
            torch.tensor(v, device=device, dtype=torch.float32).mul(255)[:, None, None]
            for v in (preprocessing.mean, preprocessing.std)
        )

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3] of any size -> float32 [N, D]."""
        return self.stages(pixels)[EMBEDDING]

    def stages(
        self, pixels: NDArray[np.uint8], layers: Sequence[str] = (), maps: Sequence[str] = ()
    ) -> dict[str, NDArray[np.float32]]:
        """Return ``embedding`` [N, D] and the features of stages, of one forward pass.

        Args:
            pixels: uint8 [N, H, W, 3], RGB, of any size.
            layers: stages to return averaged over height and width: ``layer3`` gives float32 [N, C].
            maps: stages to return in full: ``layer3`` gives ``layer3_map``, float32 [N, C, H, W].
        """
        import torch

        self._notice_fork()
        found: defaultdict[str, list[Tensor]] = defaultdict(list)  # two tensors where colours are split
        thread = threading.get_ident()

        def hook(name: str, part: nn.Module) -> RemovableHandle:
            def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                if threading.get_ident() != thread:  # a pass of another thread, through the same network
                    return
                if name in layers:
                    found[name].append(output.float().mean((2, 3)))
                if name in maps:
                    found[f"{name}_map"].append(output.float())

            return part.register_forward_hook(keep)

        # Hook the stages only for this call.
        with (
            torch.inference_mode(),
            self.autocast(),
            full_float32(self.precision == "fp32"),
            ExitStack() as hooks,
        ):
            network = self.network()
            for name in dict.fromkeys((*layers, *maps)):
                for part in stage_parts(network, name, name):
                    hooks.callback(hook(name, part).remove)
            found[EMBEDDING].append(network(self.normalised(torch.from_numpy(pixels).to(self.device))))
        return {name: torch.cat(parts, 1).float().cpu().contiguous().numpy() for name, parts in found.items()}

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return uint8 [N, H, W, 3] as the network's input, float32 [N, 3, H, W] in channels_last, on its device."""
        # NHWC bytes viewed as NCHW are channels_last already: the conversion to float is the only copy
        return pixels.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass in the engine's precision."""
        import torch

        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.precision == "bf16")

    def _notice_fork(self) -> None:
        """Set torch up in a forked process: the threads of its parent are not there, and waiting for them hangs."""
        if self._process == os.getpid():
            return
        import torch

        if self.device.startswith("cuda"):
            raise UserError(
                "a GPU cannot be used in a forked process: start it with spawn "
                "(DataLoader(multiprocessing_context='spawn')), or give it embedder.transform alone"
            )
        torch.set_num_threads(1)
        self._process = os.getpid()

    def network(self) -> nn.Module:
        """Return the network that runs: ``model`` as it is now, with folded batch norms where features stay the same.

        Raises:
            UserError: a part of ``model`` is in training mode.
        """
        if any(module.training for module in self.model.modules()):
            raise UserError(
                "the network is in training mode, where an embedding depends on the other images of its batch: "
                "call embedder.model.eval() first"
            )
        if self.device != "cpu" or self.precision != "fp32":
            return self.model
        # Fold again after somebody has trained or loaded the model.
        state = tensor_state([self.model])
        if self._folded is None or self._folded[0] != state:
            from zoo.models.fuse_bn import fold_batch_norms

            with float32_on_cpu():
                self._folded = state, fold_batch_norms(self.model, *self._shape) or self.model
        return self._folded[1]


def tensor_state(modules: Iterable[nn.Module]) -> TensorState:
    """Return a value that changes when somebody trains, loads or moves the parameters and buffers of these modules."""
    tensors = (t for m in modules for part in (m.named_parameters(), m.named_buffers()) for t in part)
    return tuple((name, t.data_ptr(), -1 if t.is_inference() else t._version) for name, t in tensors)


def torch_device(device: str | None) -> str:
    """Return a usable torch device; ``None`` is the first GPU (CUDA, else Apple's MPS), else the CPU.

    Raises:
        UserError: the device is not usable here.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except NotImplementedError:  # this build of torch has no such devices, which it says in a list of operators
        raise UserError(f"device {device!r} is not usable here: this machine has {devices_here()}") from None
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} is not usable here ({reason_of(error)}): this machine has {devices_here()}"
        ) from None
    return device
