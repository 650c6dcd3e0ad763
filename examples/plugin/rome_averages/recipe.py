"""What `averages` can be told. The API loads this, so it must not import torch."""

from pydantic import BaseModel, ConfigDict, Field

from rome_core.recipes.catalogue import MethodRecipe


class AveragesHyperparameters(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    group: int = Field(default=4, ge=1, le=1000, description="Real images in each average.")


RECIPE = MethodRecipe(
    name="averages",
    title="Averages of real images",
    summary="Each synthetic image is the mean of some real images of its class.",
    hyperparameters=AveragesHyperparameters,
    presets={},
    paper="",
    images_per_class=lambda hyperparameters, ipc: hyperparameters.group,
)
