"""Monitors that cost almost nothing: a linear probe trained during the run, and a check for a collapse.

Both use the outputs that encoder and projector compute anyway for the first view. They draw no random numbers and give
the network no gradients, so a run has the same weights with and without them.
"""

from __future__ import annotations

from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.methods import Method
from training.monitoring.collapse import (
    COLLAPSE_WARNING,
    collapsed,
    effective_rank,
    least_spread,
    output_spread,
    vanished,
)

CHECK_STEPS = 25  # two checks in a row must see a collapse: it is reported within 75 steps
_ROWS = 256  # samples per check: the effective rank needs the eigenvalues of a matrix of this size
_LR = 1e-3  # Adam's default; it needs no tuning, because features are standardised


class ProbeState(TypedDict, total=False):
    """The state of a ``LinearProbe``; empty for a run without labels."""

    norm: dict[str, Tensor]
    weight: Tensor
    bias: Tensor
    optimiser: dict[str, Any]
    counts: Tensor


class MonitorState(TypedDict, total=False):
    """The monitor's part of a checkpoint; empty in old checkpoints."""

    probe: ProbeState
    bad_checks: int


class LinearProbe:
    """A linear classifier, initialised to zero and trained on standardised, detached features.

    Its accuracy is measured on each batch before it trains on it.
    """

    def __init__(self, dim: int, classes: int, device: torch.device) -> None:
        self._norm = nn.BatchNorm1d(dim, affine=False, device=device)
        self._weight = torch.zeros(classes, dim, device=device, requires_grad=True)
        self._bias = torch.zeros(classes, device=device, requires_grad=True)
        self._optimiser = torch.optim.Adam([self._weight, self._bias], lr=_LR)
        self._counts = torch.zeros(2, device=device, dtype=torch.float64)  # correct, seen

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """Count the correct predictions for features [N, dim] and labels [N], then train one step on them."""
        logits = F.linear(self._norm(features.detach().float()), self._weight, self._bias)
        correct = (logits.argmax(1) == labels).sum()
        self._counts += torch.stack([correct, torch.full_like(correct, len(labels))])
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(logits, labels))
        self._optimiser.step()

    def accuracy(self) -> float | None:
        """Return the accuracy in percent since the last call, ``None`` if nothing was seen."""
        correct, seen = self._counts.tolist()
        self._counts.zero_()
        return 100 * correct / seen if seen else None

    def state_dict(self) -> ProbeState:
        """Return the state for a checkpoint."""
        return {
            "norm": self._norm.state_dict(),
            "weight": self._weight.detach(),
            "bias": self._bias.detach(),
            "optimiser": self._optimiser.state_dict(),
            "counts": self._counts,
        }

    @torch.no_grad()
    def load_state_dict(self, state: ProbeState) -> None:
        """Restore what ``state_dict`` returned."""
        self._norm.load_state_dict(state["norm"])
        self._weight.copy_(state["weight"])
        self._bias.copy_(state["bias"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._counts.copy_(state["counts"])


class OnlineMonitor:
    """Watches a method's encoder and projector through forward hooks; only rank 0's monitor is used.

    Args:
        dim, classes: size of the encoder's output, number of classes; without classes there is no probe.
        rows: samples of a micro-batch on one rank. A method that passes several views through the encoder at once
            passes the first view first; one that passes something else before says so (``Method.first_view_pass``).
    """

    def __init__(self, method: Method, *, dim: int, classes: int, rows: int, device: torch.device) -> None:
        self.probe = LinearProbe(dim, classes, device) if classes else None
        self._rows, self._method = rows, method
        self._features: Tensor | None = None
        self._passes = 0  # of the encoder before the one that is kept
        self._outputs: Tensor | None = None
        self._bad_checks = 0
        method.encoder.register_forward_hook(self._keep_features)
        method.projector.register_forward_hook(self._keep_outputs)

    def _keep_features(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if self._features is not None or not module.training:
            return
        if self._passes < self._method.first_view_pass:
            self._passes += 1
        else:
            self._features = output.detach()[: self._rows]

    def _keep_outputs(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if self._outputs is None and module.training:
            self._outputs = output.detach()[: self._rows]

    def after_step(self, step: int, labels: Tensor | None) -> dict[str, float]:
        """Train the probe, and check for a collapse every 25 steps; ``step`` counts the completed steps.

        Args:
            labels: [N] of this rank's batch; the first micro-batch's are used.

        Returns:
            ``spread`` and ``effective_rank`` (``training.monitoring.collapse``) after a check, otherwise nothing.
        """
        # Take what the hooks have kept of this step.
        features, self._features, self._passes = self._features, None, 0
        outputs, self._outputs = self._outputs, None
        if self.probe is not None and features is not None and labels is not None and len(features) > 1:
            self.probe.learn(features, labels[: len(features)].to(features.device))
        # Check for a collapse only now and then, as it costs time.
        if step % CHECK_STEPS or outputs is None:
            return {}
        # Count the bad checks in a row.
        outputs = outputs[:_ROWS]
        spread, rank = output_spread(outputs), effective_rank(outputs)
        bad = collapsed(spread, rank, least_spread(self._method)) or vanished(self._method, outputs)
        self._bad_checks = self._bad_checks + 1 if bad else 0
        return {"spread": round(spread, 4), "effective_rank": round(rank, 2)}

    def warning(self) -> str | None:
        """Return a warning of one line when a second check in a row sees a collapse, but only once."""
        if self._bad_checks != 2:
            return None
        self._bad_checks += 1
        return COLLAPSE_WARNING

    def state_dict(self) -> MonitorState:
        """Return the state for a checkpoint."""
        return {"probe": {} if self.probe is None else self.probe.state_dict(), "bad_checks": self._bad_checks}

    def load_state_dict(self, state: MonitorState) -> None:
        """Restore what ``state_dict`` returned."""
        self._bad_checks = state.get("bad_checks", 0)
        if self.probe is not None and (probe := state.get("probe")):
            self.probe.load_state_dict(probe)
