"""What a region is found in: attention to a picture, of the question and of the generic one."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from secondlook.edge.wire import Relevance
from secondlook.kernels import relative_attention

__all__ = ["AttentionMaps"]


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention to the global image's tokens, still on the model's device.

    Attributes:
        question: [rows, columns] float32, for the question asked.
        generic: the same for the generic one; ones where it is not divided by that.
    """

    question: Tensor
    generic: Tensor

    @property
    def nbytes(self) -> int:
        """What both take."""
        return self.question.nbytes + self.generic.nbytes

    def relative(self) -> NDArray[np.float64]:
        """question / generic, [rows, columns]: what the region is sought in. Waits for the device."""
        found: NDArray[np.float64] = relative_attention(self.question, self.generic).cpu().numpy()
        return found

    def relevance(self) -> Relevance:
        """The same as it travels: a byte a cell. Waits for the device."""
        relative = self.relative()
        most = relative.max()
        cells = np.round(relative * (255 / most) if most > 0 else relative).astype(np.uint8)
        rows, columns = cells.shape
        return Relevance(width=columns, height=rows, data=b64encode(cells.tobytes()).decode())
