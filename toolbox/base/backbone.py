"""The extension point for encoders: pixels or token ids in, tokens out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Size, Tensor, nn
from torch.utils.data import default_collate

from toolbox.base.features import Features

if TYPE_CHECKING:
    from toolbox.base.export import Exported
    from toolbox.base.quantize import Quantize
    from toolbox.base.tune import Tune


_NOT_DECAYED = re.compile(
    r"(^|[._])((cls|class|dist|distillation|detection|reg|register|storage|mask)_?tokens?\d*|class_embedding"
    r"|(abs\w*_)?pos(ition)?_embed(ding)?s?(_\w+)?(\.weight)?|pos_embed_\w+|rel_pos(_[hw])?"
    r"|relative_position_bias_table|attention_bias(es)?|logit_scale|(cpb|continuous_position_bias)_mlp\..+|grn\.(weight|bias))$"
)
"""Names of class, register and mask tokens, of positions and of tables of relative positions in timm and transformers;
and of a norm that is no vector in transformers."""


class Preprocess(ABC):
    """Turns raw values into what a backbone takes: one by one and collated in data workers, finished on the device.

    Picklable, and holds no module. What grows the data, such as from bytes to normalised floats, belongs in `finish`:
    batches then cross from the workers at a quarter of the size.

    - `size`: (height, width) that the backbone wants, None for text.
    """

    size: tuple[int, int] | None = None

    @abstractmethod
    def __call__(self, value: Any) -> Any:
        """One raw value (a PIL image, a string) -> one item, e.g. a (3, H, W) tensor of bytes."""

    def uncut(self) -> Preprocess:
        """The same for views that an augment has made, of which no more is cut off. Itself unless overridden."""
        return self

    def collate(self, items: list[Any]) -> Any:
        """Items of one batch -> what is moved to the device. Stacks tensors unless overridden."""
        return default_collate(items)  # in a data worker straight into shared memory: one copy less

    def finish(self, batch: Any) -> Any:
        """A collated batch, on the device -> the `inputs` of `Backbone.forward`. Unchanged unless overridden."""
        return batch


class Backbone(nn.Module, ABC):
    """An encoder. `__init__` builds structure only: no download, no weights from disk.

        class Patches(Backbone):
            modality, dim = "image", 64
            def __init__(self, patch: int = 8):
                super().__init__()
                self.embed = nn.Conv2d(3, 64, patch, patch)
            def forward(self, inputs, *, layers=1, mask=None):
                grid = self.embed(inputs)
                return Features(grid.flatten(2).transpose(1, 2), grid=grid.shape[-2:])
            def layers(self):
                return [self.embed]
            def preprocess(self):
                return MyPreprocess(size=(32, 32))

    - `modality`: "image" or "text"; which field of a sample it reads.
    - `dim`: D, the width of its tokens.
    - `abilities`: what its `forward` and constructor can do beyond the minimum, of "layers" (several blocks),
      "mask" (masked input), "checkpointing" (gradient checkpointing). Asking for an absent one is an error.
    - `takes_any_name`: its argument `name` is any name of a whole library: what an id means is asked of others first.
    - `weights_id`: what `load_weights` will load, None for random weights; part of a checkpoint's identity.
    """

    modality: str = "image"
    dim: int
    abilities: frozenset[str] = frozenset()
    takes_any_name: bool = False
    weights_id: str | None = None

    # set by the registry, by `tune` and by the engine, which reads them
    from_recipe: int | None = None  # the id of the object that the registry built: a copy of it has another
    quantize: Quantize | None = None
    tune: Tune | None = None
    gradient_checkpointing: bool = False
    quantized: dict[str, Any] | None = None  # what `quantize` came to, once it is applied
    plain: dict[str, Size] | None = None  # names and shapes of its tensors before `quantize` and `tune`
    # what `tune` added: state_dict, load_state_dict, save_config, parameter_names, scale, off, merge
    adapter: Any = None
    _frozen: tuple[nn.Module, ...] = ()
    _norms_at_rest: tuple[nn.Module, ...] = ()

    @abstractmethod
    def forward(self, inputs: Any, *, layers: int = 1, mask: Tensor | None = None) -> Features:
        """Encode a batch.

        - `inputs`: what `preprocess().finish` returns, on the backbone's device.
        - `layers`: how many last blocks to return in `Features.blocks` (ability "layers").
        - `mask`: (B, N) bool, True where a patch is replaced by the mask token (ability "mask").
        """

    @abstractmethod
    def preprocess(self) -> Preprocess:
        """The conversion that belongs to these weights: size, mean and std, or the tokenizer."""

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """Blocks from input to output: the order for layer-wise decay and `last`, the reach of adapters."""

    def no_weight_decay(self) -> set[str]:
        """Names, as in `named_parameters()`, of what weight decay leaves alone by default, as it does vectors.

        Class, register and mask tokens, position embeddings and tables of relative positions, by the names that timm
        and transformers give them; and what a module inside says by a method of this name, as timm's nets do.
        """
        names = {name for name, _ in self.named_parameters()}
        said = {
            f"{path}.{name}"
            for path, module in self.named_modules()
            if module is not self and callable(getattr(module, "no_weight_decay", None))
            for name in module.no_weight_decay()
        }
        return {name for name in names if name in said or _NOT_DECAYED.search(name)}

    def find_weights(self) -> None:
        """Make sure that `load_weights` will find its files; called first, on torch's meta device.

        May download them. Raises OSError or ValueError, with the steps that mend it, when they cannot be had.
        """

    def load_weights(self) -> None:
        """Fill in the weights of `weights_id`. The engine calls it once, and not when a checkpoint follows.

        Raises OSError or ValueError, with the steps that mend it, when the weights cannot be had.
        """

    def adapter_root(self) -> nn.Module:
        """The module whose names an adapter's keys use, so that peft can load it on that module alone."""
        return self

    def export(self, folder: Path, *, as_base: bool = False) -> Exported:
        """Write this encoder into `folder` in the format of the library that it belongs to.

        - `as_base`: it is what an adapter belongs to. Weights that anyone may load by a public name are then left out,
          and named.

        Its adapter, if any, is off meanwhile, so that tensors have their plain names. Raises ValueError for an encoder
        that no library knows, or that its library cannot describe.
        """
        raise ValueError(f"{type(self).__name__} has no export: it belongs to no library that could load it")

    def enable_checkpointing(self) -> None:
        """Recompute activations in the backward pass (ability "checkpointing")."""
        raise ValueError(f"{type(self).__name__} has no gradient checkpointing")

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
        return [m for m in self.modules() if any(getattr(m, name, None) is not None for name in names)]

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

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in (*self._frozen, *self._norms_at_rest):
            if module is self:
                super().train(False)
            else:
                module.eval()
        return self


def check_images(pixels: Tensor) -> None:
    """Raise ValueError unless it is a batch of images, (B, 3, H, W)."""
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(pixels.shape)}.")


def check_rate(name: str, value: float) -> float:
    """`value` itself. Raises ValueError unless it is a probability below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {value}.")
    return value
