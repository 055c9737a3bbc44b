"""The server's side of secondlook: models, decoding, doubt, where to look closer, and what to keep.

The names below are imported when first used, because torch and transformers take seconds to import, and a
command's `--help` needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from secondlook.engine.lazy import lazy_names

if TYPE_CHECKING:
    from secondlook.engine.decode.plans import Rows as Rows
    from secondlook.engine.encoders import EncoderChoice as EncoderChoice
    from secondlook.engine.encoders import with_vision as with_vision
    from secondlook.engine.encoders.manifest import EncoderManifest as EncoderManifest
    from secondlook.engine.encoders.manifest import read_manifest as read_manifest
    from secondlook.engine.encoders.plan_manifest import BuildOptions as BuildOptions
    from secondlook.engine.encoders.plan_store import RebuildNeededError as RebuildNeededError
    from secondlook.engine.encoders.plan_store import UntrustedPlanError as UntrustedPlanError
    from secondlook.engine.encoders.profiles import BatchProfile as BatchProfile
    from secondlook.engine.engine import Engine as Engine
    from secondlook.engine.errors import AnsweredSessionError as AnsweredSessionError
    from secondlook.engine.errors import DeviceError as DeviceError
    from secondlook.engine.errors import EmptyQuestionError as EmptyQuestionError
    from secondlook.engine.errors import EncoderError as EncoderError
    from secondlook.engine.errors import EncoderMismatchError as EncoderMismatchError
    from secondlook.engine.errors import EngineFailedError as EngineFailedError
    from secondlook.engine.errors import ExpiredSessionError as ExpiredSessionError
    from secondlook.engine.errors import IncompleteModelError as IncompleteModelError
    from secondlook.engine.errors import InvalidEncoderError as InvalidEncoderError
    from secondlook.engine.errors import InvalidModelError as InvalidModelError
    from secondlook.engine.errors import ModelError as ModelError
    from secondlook.engine.errors import ModelNotFoundError as ModelNotFoundError
    from secondlook.engine.errors import ModelNotReadyError as ModelNotReadyError
    from secondlook.engine.errors import NonFiniteError as NonFiniteError
    from secondlook.engine.errors import OutOfMemoryError as OutOfMemoryError
    from secondlook.engine.errors import PictureMismatchError as PictureMismatchError
    from secondlook.engine.errors import PolicyFileError as PolicyFileError
    from secondlook.engine.errors import QuestionError as QuestionError
    from secondlook.engine.errors import QuestionTooLongError as QuestionTooLongError
    from secondlook.engine.errors import QueueFullError as QueueFullError
    from secondlook.engine.errors import ReservedTextError as ReservedTextError
    from secondlook.engine.errors import RuntimeMissingError as RuntimeMissingError
    from secondlook.engine.errors import SessionError as SessionError
    from secondlook.engine.errors import ShuttingDownError as ShuttingDownError
    from secondlook.engine.errors import UnknownSessionError as UnknownSessionError
    from secondlook.engine.errors import UnsupportedModelError as UnsupportedModelError
    from secondlook.engine.method.budget import BudgetedThreshold as BudgetedThreshold
    from secondlook.engine.method.budget import BudgetSettings as BudgetSettings
    from secondlook.engine.method.decision import no_detail_to_gain as no_detail_to_gain
    from secondlook.engine.method.maps import AttentionMaps as AttentionMaps
    from secondlook.engine.method.policy import Policy as Policy
    from secondlook.engine.method.policy import keep_second as keep_second
    from secondlook.engine.method.policy_file import PolicyFile as PolicyFile
    from secondlook.engine.method.policy_file import read_policy as read_policy
    from secondlook.engine.method.region import RegionSettings as RegionSettings
    from secondlook.engine.method.region import find_region as find_region
    from secondlook.engine.method.uncertainty import TokenStatistics as TokenStatistics
    from secondlook.engine.method.uncertainty import aggregate as aggregate
    from secondlook.engine.models.attention import ATTENTION as ATTENTION
    from secondlook.engine.models.base import Features as Features
    from secondlook.engine.models.base import Prompt as Prompt
    from secondlook.engine.models.base import VisionLanguageModel as VisionLanguageModel
    from secondlook.engine.models.checkpoint import DType as DType
    from secondlook.engine.models.checkpoint import load_model as load_model
    from secondlook.engine.models.pictures import Picture as Picture
    from secondlook.engine.models.prompts import GENERIC_QUESTION as GENERIC_QUESTION
    from secondlook.engine.models.settings import Localisation as Localisation
    from secondlook.engine.models.settings import LookSettings as LookSettings
    from secondlook.engine.models.vision import VisionEncoder as VisionEncoder
    from secondlook.engine.results import FinalAnswer as FinalAnswer
    from secondlook.engine.results import FirstLook as FirstLook
    from secondlook.engine.results import Look as Look
    from secondlook.engine.results import Pending as Pending
    from secondlook.engine.results import Question as Question
    from secondlook.engine.threads import configure_threads as configure_threads
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
