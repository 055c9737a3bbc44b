"""What was encoded of pictures, for models where a question has a part in what comes of it.

With other models a kept prefix holds all that a further question about a picture needs. Where the prefix
belongs to one question (`VisionLanguageModel.prefix_key`), the features behind it, which do not, are kept.
"""

from __future__ import annotations

from secondlook.engine.asked import TokenisedQuestion
from secondlook.engine.decode.flows import Flow
from secondlook.engine.decode.scheduler import Encode
from secondlook.engine.models.base import Features, QuestionTokens, VisionLanguageModel

__all__ = ["EncodedPictures"]


class EncodedPictures:
    """One model's features of pictures, the last asked about, each for the client that asked alone.

    Args:
        generic: the generic question's tokens.
        most: pictures kept at once.
    """

    def __init__(self, model: VisionLanguageModel, generic: QuestionTokens, most: int) -> None:
        self._model = model
        self._generic = generic
        self._most = most
        self._kept: dict[tuple[str, bytes], Features] = {}

    def shared(self, asked: TokenisedQuestion) -> bool:
        """Whether all questions about the picture have one prefix, the generic one too."""
        key, picture = self._model.prefix_key, asked.picture
        return key(picture, self._generic) == key(picture, asked.tokens)

    def of(self, asked: TokenisedQuestion) -> Flow[Features]:
        """The features of a question's global image."""
        if self.shared(asked):
            once: Features = yield Encode(asked.picture, asked.picture.tokens)
            return once
        name = asked.client, asked.picture.digest
        features = self._kept.pop(name, None)
        if features is None:
            encoded: Features = yield Encode(asked.picture, asked.picture.tokens)
            # What a pass returns are parts of the tensors of all its pictures.
            features = Features(encoded.tokens.clone(), tuple(one.clone() for one in encoded.deep))
        self._kept[name] = features  # behind all others: those asked about least lately go first
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]
        return features
