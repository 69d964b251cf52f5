"""A run watched from within, at nearly no cost: an online linear probe, and whether the outputs collapse.

Both look at what the encoder and the projector gave for the first view of the batch anyway. Nothing here draws a
random number or gives the network a gradient: a run has the same weights with it and without.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.methods import Method
from training.monitoring.collapse import COMPLAINT, collapsed, effective_rank, output_spread

CHECK_STEPS = 25  # a collapse is reported when two checks in a row see it: within 50 steps, or 75 of its onset
_ROWS = 256  # of a batch that are looked at: the effective rank is an eigenproblem of that size
_LR = 1e-3  # Adam's default; features are standardised first, so it needs no choosing


class Probe:
    """A linear classifier trained along on standardised, detached features; its accuracy is on batches not yet seen.

    Raises nothing and changes nothing but itself; starts from zero.
    """

    def __init__(self, dim: int, classes: int, device: torch.device) -> None:
        self._norm = nn.BatchNorm1d(dim, affine=False, device=device)
        self._weight = torch.zeros(classes, dim, device=device, requires_grad=True)
        self._bias = torch.zeros(classes, device=device, requires_grad=True)
        self._optimiser = torch.optim.Adam([self._weight, self._bias], lr=_LR)
        self._counts = torch.zeros(2, device=device, dtype=torch.float64)  # right, seen

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """One step on [N, dim] and [N], after they were counted."""
        logits = F.linear(self._norm(features.detach().float()), self._weight, self._bias)
        right = (logits.argmax(1) == labels).sum()
        self._counts += torch.stack([right, torch.full_like(right, len(labels))])
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(logits, labels))
        self._optimiser.step()

    def accuracy(self) -> float | None:
        """Percent since it was last asked for; ``None`` where nothing was seen."""
        right, seen = self._counts.tolist()
        self._counts.zero_()
        return 100 * right / seen if seen else None

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides its future."""
        return {
            "norm": self._norm.state_dict(),
            "weight": self._weight.detach(),
            "bias": self._bias.detach(),
            "optimiser": self._optimiser.state_dict(),
            "counts": self._counts,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self._norm.load_state_dict(state["norm"])
        self._weight.copy_(state["weight"])
        self._bias.copy_(state["bias"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._counts.copy_(state["counts"])


class Watch:
    """Looks over a method's shoulder; only the first rank's is asked.

    Args:
        method: hooks are added to its encoder and projector.
        dim, classes: of the encoder's output and the labels; no classes, no probe.
        rows: samples of a micro-batch on one rank. Methods that send several views through the encoder at once send
            the first view first.
    """

    def __init__(self, method: Method, *, dim: int, classes: int, rows: int, device: torch.device) -> None:
        self.probe = Probe(dim, classes, device) if classes else None
        self._rows = rows
        self._features: Tensor | None = None
        self._outputs: Tensor | None = None
        self._bad_checks = 0
        method.encoder.register_forward_hook(self._see_features)
        method.projector.register_forward_hook(self._see_outputs)

    def _see_features(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._features is None and module.training:
            self._features = output.detach()[: self._rows]

    def _see_outputs(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._outputs is None and module.training:
            self._outputs = output.detach()[: self._rows]

    def after_step(self, step: int, labels: Tensor | None) -> dict[str, float]:
        """After each optimiser step, of which ``step`` are done: trains the probe; every so many steps, a check.

        ``labels`` [N] of this rank's batch, of which the first micro-batch is used. Returns ``spread`` and
        ``effective_rank`` (see ``training.monitoring.collapse``) where it checked.
        """
        features, self._features = self._features, None
        outputs, self._outputs = self._outputs, None
        if self.probe is not None and features is not None and labels is not None and len(features) > 1:
            self.probe.learn(features, labels[: len(features)].to(features.device))
        if step % CHECK_STEPS or outputs is None:
            return {}
        outputs = outputs[:_ROWS]
        spread, rank = output_spread(outputs), effective_rank(outputs)
        self._bad_checks = self._bad_checks + 1 if collapsed(spread, rank) else 0
        return {"spread": round(spread, 4), "effective_rank": round(rank, 2)}

    def complaint(self) -> str | None:
        """One line, once, when a collapse has been seen twice in a row."""
        if self._bad_checks != 2:
            return None
        self._bad_checks += 1
        return COMPLAINT

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        probe = {} if self.probe is None else self.probe.state_dict()
        return {"probe": probe, "bad_checks": self._bad_checks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``; an empty one, of an older checkpoint, leaves all as it is."""
        self._bad_checks = state.get("bad_checks", 0)
        if self.probe is not None and state.get("probe"):
            self.probe.load_state_dict(state["probe"])
