"""The state of a backbone that is built, quantised, tuned and trained: nothing that an author writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from torch import Size, nn

if TYPE_CHECKING:
    from toolbox.base.quantize import Quantize
    from toolbox.base.tune import Tune


class Tunable(nn.Module):
    """A module of which parts may be frozen for good, and on which `tune` and `quantize` of a recipe are applied.

    - `tune`, `quantize`, `gradient_checkpointing`: what the recipe says; set by the registry.
    - `from_recipe`: id of the object that the registry built; a copy of it has another id than it says.
    - `plain`: names and shapes of its tensors before `quantize` and `tune`.
    - `quantized`: the result of `quantize`, as the engine describes it.
    - `adapter`: what `tune` added: state_dict, load_state_dict, save_config, parameter_names, scale, off, merge.
    """

    from_recipe: int | None = None
    quantize: Quantize | None = None
    tune: Tune | None = None
    gradient_checkpointing: bool = False
    quantized: dict[str, Any] | None = None
    plain: dict[str, Size] | None = None
    adapter: Any = None
    _frozen: tuple[nn.Module, ...] = ()
    _norms_at_rest: tuple[nn.Module, ...] = ()

    def freeze(self, modules: Iterable[nn.Module] | None = None) -> None:
        """Stop training `modules` (default: all of it): no gradients, and eval mode for good."""
        modules = [self] if modules is None else list(modules)
        for module in modules:
            module.requires_grad_(False)
        self._frozen = (*self._frozen, *modules)
        self.train(self.training)

    def batch_norms(self) -> list[nn.Module]:
        """The layers that keep running statistics of batches, of whatever library."""
        names = ("running_mean", "running_var")
        return [module for module in self.modules() if any(getattr(module, name, None) is not None for name in names)]

    def freeze_norm_stats(self) -> None:
        """Leave the running statistics of batch norms as they are and normalise by them in training too.

        Their scales and shifts train as ever.
        """
        self._norms_at_rest = tuple(self.batch_norms())
        self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether nothing in it trains."""
        return not any(p.requires_grad for p in self.parameters())

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in (*self._frozen, *self._norms_at_rest):
            if module is self:
                super().train(False)
            else:
                module.eval()
        return self
