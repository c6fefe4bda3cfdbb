"""timm's MLP of ConvNeXt, ViT and EVA blocks; imported only where timm is."""

from timm.layers.mlp import Mlp
from torch import Tensor, nn

from loradet.adapters.lean.pair import has_hooks, run_pair
from loradet.adapters.lean.pointwise import activation_name


class LeanMlp(Mlp):
    """timm's `Mlp` that keeps what `memory` of its layers says; results are the same."""

    runs_pairs = True

    def forward(self, x: Tensor) -> Tensor:
        """As of `Mlp`: (..., C), or (N, C, H, W) where its layers are 1×1 convolutions."""
        between = [self.act, self.drop1, self.norm]
        drops = self.drop1.training and self.drop1.p > 0
        activation = activation_name(self.act)
        if drops or activation is None or not isinstance(self.norm, nn.Identity) or has_hooks(between):
            return super().forward(x)
        y = run_pair(x, self.fc1, activation, self.fc2)
        return super().forward(x) if y is None else self.drop2(y)
