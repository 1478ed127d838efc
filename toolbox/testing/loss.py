"""The contract of a loss, checked on a small batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from toolbox.base import Loss
from toolbox.testing.material import check_registered, check_state_dict, is_close, list_without_gradient, require

ROWS = 12
TOKENS = 5


def check_loss(make: Callable[[], Loss], *, dim: int = 16) -> None:
    """Check a loss against `toolbox.base.Loss`; raises AssertionError that names the broken contract.

    The loss is called with labels, with labels and references, and, if it needs no labels, with pairs of views and,
    if it needs a teacher, with one view and nothing else. What it refuses with ValueError is left out; one way must
    remain. A loss with `reads_tokens` is given tokens, some of them padding, and one with `needs_teacher` a teacher's
    embeddings of the same width; one with `reads_logits` is connected to as many numbers as there are classes, and is
    also given soft labels. What a loss remembers of a batch is put back between calls that are compared.

    - `make`: returns a new instance at every call.
    - `dim`: D, the embedding width it is connected to.
    """
    name = type(make()).__name__
    dim = ROWS if getattr(make(), "reads_logits", False) else dim
    require(isinstance(make(), Loss), f"{name} must be a subclass of toolbox.base.Loss.")

    def connected() -> Loss:
        loss = make()
        loss.connect(dim, ROWS)
        return loss

    ways = {
        way: arguments for way, arguments in _make_ways(connected(), dim).items() if _accepts(connected(), arguments)
    }
    require(ways, f"{name} must accept labels, or pairs of embeddings without labels; it refuses both.")
    for way, arguments in ways.items():
        loss = connected()
        names = set(loss.state_dict())
        _check_value(loss, arguments, f"{name} with {way}")
        _check_precision(loss, arguments, f"{name} with {way}")
        _check_permutation(loss, arguments, f"{name} with {way}")
        if not loss.gathers:
            _check_shares(loss, arguments, f"{name} with {way}")
        if loss.reads_tokens:
            _check_padding(loss, arguments, f"{name} with {way}")
        if loss.needs_teacher:
            _check_teacher(loss, arguments, f"{name} with {way}")
        require(set(loss.state_dict()) == names, f"{name}: parameters belong into __init__ or connect, not forward.")
        check_registered(loss, name)
        check_state_dict(loss, connected(), partial(_compute_value, arguments=arguments), name)
    loss = connected()
    for arguments in ways.values():
        if any(p.requires_grad for p in loss.parameters()):
            loss(**arguments).backward()
            loss.after_step()
    missing = list_without_gradient(loss)
    require(not missing, f"{name}: gradients must reach its own parameters; none reaches {', '.join(missing)}.")
    if "labels" in ways:
        _check_odd_labels(connected(), ways["labels"], name)


def _make_ways(loss: Loss, dim: int) -> dict[str, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, TOKENS, dim) if loss.reads_tokens else (ROWS, dim)
    embeddings = torch.randn(shape, generator=generator)
    views = 0.3 * embeddings + torch.randn(shape, generator=generator)
    if loss.reads_tokens:
        embeddings[: ROWS // 2, -1] = views[ROWS // 3 :, -2:] = 0
    labels = torch.arange(ROWS) // 3
    ways: dict[str, dict[str, Any]] = {
        "labels": {"embeddings": embeddings, "labels": labels},
        "labels and references": {
            "embeddings": embeddings,
            "labels": labels,
            "ref_embeddings": views,
            "ref_labels": labels,
        },
    }
    if loss.reads_logits:
        shares = torch.rand(ROWS, dim, generator=generator).softmax(dim=1)
        ways["soft labels"] = {"embeddings": embeddings, "labels": shares}
    if not loss.needs_labels:
        ways["pairs"] = {"embeddings": embeddings, "ref_embeddings": views}
    if loss.needs_teacher:
        if not loss.needs_labels:
            ways["a teacher alone"] = {"embeddings": embeddings}
        taught = {"teacher": torch.randn(ROWS, dim, generator=generator)}
        taught_refs = {"ref_teacher": taught["teacher"] + torch.randn(ROWS, dim, generator=generator)}
        for arguments in ways.values():
            arguments |= taught | (taught_refs if "ref_embeddings" in arguments else {})
    return ways


def _compute_value(loss: Loss, arguments: dict[str, Any]) -> Tensor:
    """The value without its gradient; the loss is left as it was, whatever it remembers of the batch."""
    state = {key: value.clone() for key, value in loss.state_dict().items()}
    with torch.no_grad():
        value = loss(**arguments)
    loss.load_state_dict({key: state[key] for key in loss.state_dict().keys() & state.keys()}, strict=False)
    return value


def _accepts(loss: Loss, arguments: dict[str, Any]) -> bool:
    try:
        loss(**arguments)
    except ValueError:
        return False
    return True


def _check_value(loss: Loss, arguments: dict[str, Any], name: str) -> None:
    embeddings = arguments["embeddings"].clone().requires_grad_()
    value = loss(**arguments | {"embeddings": embeddings})
    require(isinstance(value, Tensor) and value.shape == (), f"{name} must return a scalar tensor.")
    require(bool(value.isfinite()), f"{name} must be finite, not {value.item()}.")
    require(value.requires_grad, f"{name} must carry a gradient: is something detached?")
    value.backward()
    gradient = embeddings.grad
    require(
        gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()),
        f"{name}: the embeddings must receive a finite gradient that is not all zero.",
    )


def _check_precision(loss: Loss, arguments: dict[str, Any], name: str) -> None:
    def value(dtype: torch.dtype, compute: torch.dtype | None = None, autocast: bool = False) -> Tensor:
        cast = {
            key: v.to(dtype).to(compute or dtype) if v is not None and v.is_floating_point() else v
            for key, v in arguments.items()
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return _compute_value(loss, cast)

    single, double = value(torch.float32), value(torch.float64)
    require(single.dtype == torch.float32, f"{name} of float32 embeddings must be float32, not {single.dtype}.")
    require(double.dtype == torch.float64, f"{name} of float64 embeddings must stay float64, not {double.dtype}.")
    require(is_close(single, double, 1e-3), f"{name} must agree in float32 and float64: {single:.7g}, {double:.7g}.")
    half, promoted = value(torch.bfloat16), value(torch.bfloat16, torch.float32)
    require(
        half.dtype == torch.float32 and is_close(half, promoted, 1e-6),
        f"{name} of bfloat16 embeddings must be computed in float32.",
    )
    autocast = value(torch.float32, autocast=True)
    require(is_close(autocast, single, 1e-6), f"{name} must be computed without autocast.")


def _check_permutation(loss: Loss, arguments: dict[str, Any], name: str) -> None:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    permuted = {key: None if value is None else value[order] for key, value in arguments.items()}
    require(
        is_close(_compute_value(loss, arguments), _compute_value(loss, permuted)),
        f"{name} must not depend on the order of the rows.",
    )


def _check_shares(loss: Loss, arguments: dict[str, Any], name: str) -> None:
    """Parts of a batch give the whole, as several processes would compute it."""

    def part(rows: slice) -> tuple[float, float]:
        share = {key: value[rows] for key, value in arguments.items()}
        others = (share.get(key) for key in ("labels", "ref_embeddings", "ref_labels"))
        return float(_compute_value(loss, share)), float(loss.weigh(share["embeddings"], *others))

    parts = [part(slice(0, 5)), part(slice(5, ROWS))]
    total = sum(weight for _, weight in parts)
    mean = sum(value * weight for value, weight in parts) / total if total else 0.0
    require(
        is_close(torch.tensor(mean), _compute_value(loss, arguments).float()),
        f"{name}: with gathers=False it must be a mean over rows, each with a term of its own, and weigh() what "
        "it divides by: two parts of a batch, weighted, gave another value than the whole.",
    )


def _check_padding(loss: Loss, arguments: dict[str, Any], name: str) -> None:
    padded = {
        key: nn.functional.pad(value, (0, 0, 0, 3)) if value.ndim == 3 else value for key, value in arguments.items()
    }
    require(
        is_close(_compute_value(loss, arguments), _compute_value(loss, padded)),
        f"{name}: tokens of zeros are padding and must change nothing.",
    )


def _check_teacher(loss: Loss, arguments: dict[str, Any], name: str) -> None:
    other = {key: value.flip(0) if key.endswith("teacher") else value for key, value in arguments.items()}
    require(
        not is_close(_compute_value(loss, arguments), _compute_value(loss, other), 1e-6),
        f"{name} must depend on the teacher's embeddings; or set needs_teacher to False.",
    )
    teacher, embeddings = (arguments[key].clone().requires_grad_() for key in ("teacher", "embeddings"))
    loss(**arguments | {"teacher": teacher, "embeddings": embeddings}).backward()
    require(
        teacher.grad is None or not bool(teacher.grad.any()),
        f"{name} must not send a gradient to the teacher: detach its embeddings.",
    )


def _check_odd_labels(loss: Loss, arguments: dict[str, Any], name: str) -> None:
    """Batches that training will meet: lone labels, one label only, collapsed embeddings."""
    lone = arguments["labels"].clone()
    lone[-1] = ROWS - 1
    cases = {
        "a lone label": {"labels": lone},
        "no two equal labels": {"labels": torch.arange(ROWS)},
        "one label only": {"labels": torch.zeros(ROWS, dtype=torch.long)},
        "equal embeddings": {"embeddings": arguments["embeddings"][:1].expand_as(arguments["embeddings"]).clone()},
    }
    for case, changed in cases.items():
        varied = arguments | changed
        embeddings = varied["embeddings"].clone().requires_grad_()
        value = loss(**varied | {"embeddings": embeddings})
        require(bool(value.isfinite()), f"{name} must be finite with {case}, not {value.item()}.")
        if value.requires_grad:
            value.backward()
        require(
            embeddings.grad is None or bool(embeddings.grad.isfinite().all()),
            f"{name} must have a finite gradient with {case}.",
        )
