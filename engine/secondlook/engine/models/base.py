"""What a model is."""

from secondlook.engine.models.llava import LlavaAdapter as VisionLanguageModel

__all__ = ["VisionLanguageModel"]
