"""Shapes of the tensors that most signatures have.

`help()` shows them in full. Within a signature an axis has the same length wherever its name
appears; `*size` is (height, width), or (depth, height, width). The tests check all shapes.
"""

from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch channels h_in w_in"]
"""Images or feature maps."""
Grids = Float[Tensor, "batch height width 2"]
"""Sampling grids: for each pixel of a crop the point (x, y) of the image."""
Crops = Float[Tensor, "batch channels height width"]
"""Images sampled at `Grids`."""

ImagesND = Float[Tensor, "batch channels *in_size"]
"""Images or volumes."""
GridsND = Float[Tensor, "batch *size dimensions"]
"""Sampling grids of images or volumes."""
CropsND = Float[Tensor, "batch channels *size"]
"""Images or volumes sampled at `GridsND`."""

Batched = Float[Tensor, "batch ..."]
"""Tensors of any shape, with a first axis for the batch."""
Theta = Float[Tensor, "batch numbers"]
"""Parameters of a family of transformations."""
Features = Float[Tensor, "batch features"]
"""A vector of features for each image."""
Logits = Float[Tensor, "batch *digits classes"]
"""Logits of a class, or of a class for each digit."""
