"""Says how the cameras inspect another product: `recipes.NAME` of the configuration. Pure data.

A recipe is complete: a setting that it leaves out has its default value, not the value in `cameras`. So a threshold or a rule
of one product never judges another product. Settings of the camera itself stay as `cameras` has them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from anoseg_engines.judgement import QualityLimits, Rule
from anoseg_engines.placement import Region
from anosegd.capture.config import DeviceSource, GenicamSource, NotEmpty, Positive
from anosegd.config_cameras import ONE_LINE, ONE_LINE_SAID, CameraConfig, CameraName, PresenceConfig

RecipeName = Annotated[str, Meta(min_length=1, max_length=256, pattern=ONE_LINE, description=ONE_LINE_SAID)]

MAX_NAME_BYTES = 120
"""The longest text that a bridge has room for."""


class RecipeSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Holds the settings of a camera's source that a recipe may change; None leaves a setting as `cameras` has it.

    A device keeps its last exposure and gain. So a recipe may change only what `cameras` sets, too.

    Attributes:
        exposure: Of a `device`, in the driver's unit.
        exposure_us: Of a `genicam` camera.
        gain: Of either.
    """

    exposure: Positive | None = None
    exposure_us: Positive | None = None
    gain: Annotated[float, Meta(ge=0, le=1e9)] | None = None


class RecipeCameraConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how one camera inspects the parts of a recipe.

    Attributes:
        region, presence, quality, score_threshold, rules, review_from: As in `CameraConfig`.
        mm_per_pixel: As in `CameraConfig`; None leaves it as the camera has it.
        source: Exposure and gain. If they differ from those before, a switch opens the camera again.
    """

    region: Region | None = None
    mm_per_pixel: Positive | None = None
    presence: PresenceConfig | None = None
    quality: QualityLimits | None = None
    score_threshold: Annotated[float, Meta(gt=0, le=1)] | None = None
    rules: tuple[Rule, ...] = ()
    review_from: Annotated[float, Meta(gt=0, lt=1)] | None = None
    source: RecipeSource = RecipeSource()


class RecipeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how another product is inspected than the one that `engine` and `cameras` describe.

    Attributes:
        cameras: Every camera of the station by name.
        bundle: As `engine.bundle`; None is that one.
    """

    cameras: dict[CameraName, RecipeCameraConfig]
    bundle: NotEmpty | None = None


def inspected_by(camera: CameraConfig, recipe: str, settings: RecipeCameraConfig) -> CameraConfig:
    """Return the configuration of a camera while a recipe is in force.

    Args:
        camera: The camera as `cameras` describes it.
        recipe: The recipe's name.
        settings: What the recipe says about this camera.

    Raises:
        ValueError: They do not fit together.
    """
    changed = {name: value for name, value in msgspec.structs.asdict(settings.source).items() if value is not None}
    source = camera.source
    for name in changed:
        if not isinstance(source, (DeviceSource, GenicamSource)) or name not in source.__struct_fields__:
            raise ValueError(f"source.{name}: a source of kind {source.__struct_config__.tag} has no such setting")
        if getattr(source, name) is None:  # the device would keep this recipe's value in all recipes without one
            raise ValueError(f"source.{name}: the camera has none to go back to: set {name} of its source in cameras, too")
    return msgspec.structs.replace(
        camera,
        recipe=recipe,
        region=settings.region,
        mm_per_pixel=settings.mm_per_pixel or camera.mm_per_pixel,
        presence=settings.presence,
        quality=settings.quality,
        score_threshold=settings.score_threshold,
        rules=settings.rules,
        review_from=settings.review_from,
        source=msgspec.structs.replace(source, **changed),
    )


def _check_name(at: str, name: str) -> None:
    """Check that a PLC can write and read the name: its texts have no spaces at their ends, and a limited length.

    Raises:
        ValueError: It cannot.
    """
    if name != name.strip():
        raise ValueError(f"{at}: {name!r} begins or ends with a space, which a PLC cannot write: remove the space")
    if (length := len(name.encode())) > MAX_NAME_BYTES:
        raise ValueError(
            f"{at}: a PLC can write names up to {MAX_NAME_BYTES} bytes, this one has {length}: choose a shorter one"
        )


def check_recipes(recipes: Mapping[str, RecipeConfig], cameras: Mapping[str, CameraConfig]) -> None:
    """Check that every recipe fits the cameras.

    Raises:
        ValueError: One does not. The message begins with the key that is wrong.
    """
    if not recipes:
        return
    default = next(iter(cameras.values())).recipe
    for name, camera in cameras.items():
        if camera.recipe != default:
            raise ValueError(
                f"cameras.{name}.recipe: with recipes, all cameras have the same one, the name of the default recipe "
                f"(here {camera.recipe!r} and {default!r})"
            )
    if not default:
        raise ValueError("cameras: with recipes, the default recipe needs a name: set recipe of every camera")
    if default in recipes:
        raise ValueError(f"recipes.{default}: the default recipe has this name, see recipe of the cameras: choose another one")
    for at, name in ((f"cameras.{next(iter(cameras))}.recipe", default), *((f"recipes.{name}", name) for name in recipes)):
        _check_name(at, name)
    for name, recipe in recipes.items():
        at = f"recipes.{name}.cameras"
        for camera_name, settings in recipe.cameras.items():
            if camera_name not in cameras:
                raise ValueError(f"{at}.{camera_name}: there is no such camera{nearest(camera_name, cameras)}")
            try:
                inspected_by(cameras[camera_name], name, settings)
            except ValueError as error:
                below = str(error).partition(": ")[0].split(".")[0] in settings.__struct_fields__
                raise ValueError(f"{at}.{camera_name}{'.' if below else ': '}{error}") from error
        if missing := [camera_name for camera_name in cameras if camera_name not in recipe.cameras]:
            what = f"say how it inspects this recipe; {missing[0]}: {{}} inspects the whole image by the bundle's threshold"
            raise ValueError(f"{at}: camera {missing[0]!r} is missing: {what}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the question whether a known name was meant, or the known names, to be added to a message."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}"
