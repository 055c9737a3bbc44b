"""A model's vision encoder and projector for other runtimes, believed only after they agree with torch.

The names below are imported when first used, as in `secondlook.engine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from secondlook.engine.lazy import lazy_names

if TYPE_CHECKING:
    from secondlook.export.errors import ExportError as ExportError
    from secondlook.export.errors import Failure as Failure
    from secondlook.export.errors import GateError as GateError
    from secondlook.export.errors import OutputError as OutputError
    from secondlook.export.errors import PlanBuildError as PlanBuildError
    from secondlook.export.exporting import ExportSettings as ExportSettings
    from secondlook.export.exporting import export_encoder as export_encoder
    from secondlook.export.exporting import verify_encoder as verify_encoder
    from secondlook.export.gate import GatePicture as GatePicture
    from secondlook.export.gate import GateSettings as GateSettings
    from secondlook.export.plans import PlanRequest as PlanRequest
    from secondlook.export.plans import make_plan as make_plan
else:
    __all__, __getattr__, __dir__ = lazy_names(__name__, __file__)
