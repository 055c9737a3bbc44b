"""The options of an upstream, another server that has the model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from secondlook.engine.cli.options import ModelChoice

if TYPE_CHECKING:
    from secondlook.engine.upstream.settings import UpstreamSettings

__all__ = ["UpstreamChoice"]

UPSTREAM: Final = "Upstream"


@dataclass(frozen=True)
class UpstreamChoice:
    """Where it is, how large pictures are sent to it, and in what it tells boxes."""

    upstream: Annotated[
        str | None,
        typer.Option(
            help="Address of a server of OpenAI's interface, such as http://host:8000; for --engine openai.",
            show_default=False,
            rich_help_panel=UPSTREAM,
        ),
    ] = None
    upstream_model: Annotated[
        str | None,
        typer.Option(
            help="One of its models; by default its only one.", show_default=False, rich_help_panel=UPSTREAM
        ),
    ] = None
    upstream_api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with its key, and nothing else.", show_default=False, rich_help_panel=UPSTREAM
        ),
    ] = None
    upstream_view: Annotated[
        str,
        typer.Option(
            help="Size of the pictures sent to it: 448 for at most 448x448 pixels in any shape, 448:28 with "
            "sides of multiples of 28, or 640x480.",
            rich_help_panel=UPSTREAM,
        ),
    ] = "448"
    upstream_local_view: Annotated[
        str | None,
        typer.Option(
            help="Size of regions' pictures; by default the same.",
            show_default=False,
            rich_help_panel=UPSTREAM,
        ),
    ] = None
    upstream_box: Annotated[
        Literal["pixels", "thousandths", "fractions"],
        typer.Option(
            help="In what its model tells boxes: thousandths (Qwen2-VL, Qwen3-VL, InternVL), pixels "
            "(Qwen2.5-VL) or fractions of the picture.",
            rich_help_panel=UPSTREAM,
        ),
    ] = "thousandths"
    upstream_pointing: Annotated[
        str | None,
        typer.Option(
            help="How its model is asked for a box, {question} being the question; by default in plain "
            "English, as JSON.",
            show_default=False,
            rich_help_panel=UPSTREAM,
        ),
    ] = None
    upstream_extra: Annotated[
        str | None,
        typer.Option(
            help="Further fields of every request, as a JSON object.",
            show_default=False,
            rich_help_panel=UPSTREAM,
        ),
    ] = None
    upstream_concurrency: Annotated[
        int, typer.Option(min=1, help="Looks asked about at once.", rich_help_panel=UPSTREAM)
    ] = 16
    upstream_timeout: Annotated[
        float, typer.Option(help="Seconds for one of its answers.", rich_help_panel=UPSTREAM)
    ] = 60.0
    upstream_max_new_tokens: Annotated[
        int,
        typer.Option(min=1, help="Longest answer, of a request that does not say.", rich_help_panel=UPSTREAM),
    ] = 128
    upstream_ca: Annotated[
        Path | None,
        typer.Option(
            help="Certificates (PEM) to trust instead of the usual ones.",
            show_default=False,
            rich_help_panel=UPSTREAM,
        ),
    ] = None

    def settings(self, model: ModelChoice) -> UpstreamSettings:
        """
        Raises:
            SettingsError: one of them is impossible.
            typer.BadParameter: there is no address, a file that cannot be read, or an option of a model that
                is computed here.
        """
        if self.upstream is None:
            raise typer.BadParameter("--engine openai needs --upstream, the address of a server")
        plain, chosen = asdict(ModelChoice(backend="openai")), asdict(model)
        here = [f"--{name.replace('_', '-')}" for name, value in chosen.items() if value != plain[name]]
        if here:
            raise typer.BadParameter(f"the model is the upstream's: leave {', '.join(here)} out")
        from secondlook.engine.upstream.settings import UpstreamSettings, parsed_view, side_of

        settings = UpstreamSettings(self.upstream)
        client = replace(
            settings.client, timeout=self.upstream_timeout, api_key=self._key(), ca=self.upstream_ca
        )
        local = parsed_view(self.upstream_local_view or self.upstream_view)
        return replace(
            settings,
            model=self.upstream_model,
            client=client,
            global_view=parsed_view(self.upstream_view),
            local_view=local,
            crop_size=side_of(local),
            box=self.upstream_box,
            pointing=settings.pointing if self.upstream_pointing is None else self.upstream_pointing,
            max_new_tokens=self.upstream_max_new_tokens,
            slots=self.upstream_concurrency,
            extra=self._extra(),
        )

    def _key(self) -> str | None:
        if self.upstream_api_key_file is None:
            return None
        try:
            return self.upstream_api_key_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise typer.BadParameter(
                f"--upstream-api-key-file {self.upstream_api_key_file} cannot be read: "
                f"{getattr(error, 'strerror', None) or 'it is no text in ASCII'}"
            ) from error

    def _extra(self) -> dict[str, Any]:
        if self.upstream_extra is None:
            return {}
        try:
            extra = json.loads(self.upstream_extra)
        except ValueError as error:
            raise typer.BadParameter(f"--upstream-extra is no JSON: {error}") from error
        if not isinstance(extra, dict):
            raise typer.BadParameter("--upstream-extra is no JSON object")
        return extra
