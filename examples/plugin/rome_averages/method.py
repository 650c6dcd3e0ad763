"""How `averages` is carried out. Only workers load this."""

import torch

from rome_core.randomness import generator
from rome_core.synthetic import SyntheticSet


class Averages:
    """One class a step, so that a long run can be followed, stopped and resumed between them."""

    def __init__(self, dataset, hyperparameters, *, ipc, seed, device="cpu", plan=None):
        self.dataset, self.group, self.ipc, self.seed = dataset, hyperparameters.group, ipc, seed
        self.iterations = dataset.classes
        self.images = torch.zeros(dataset.classes, ipc, *dataset.shape)
        self.label = 0  # the next class

    def step(self):
        members = torch.nonzero(self.dataset.train_labels == self.label).flatten()
        for place in range(self.ipc):
            # A draw has a name, so a resumed run draws what an undisturbed one draws.
            made = generator(self.seed, "averages", self.label, place)
            chosen = members[torch.randperm(len(members), generator=made)[: self.group]]
            real = self.dataset.normalise(self.dataset.train_images[chosen])  # (group, c, h, w)
            self.images[self.label, place] = real.mean(dim=0)
        self.label += 1
        return {"images": float(self.ipc * self.group)}

    def state_dict(self):
        return {"images": self.images, "next": {"label": self.label}}

    def load_state_dict(self, state):
        self.images, self.label = state["images"], state["next"]["label"]

    def synthetic_set(self):
        labels = torch.arange(self.dataset.classes).repeat_interleave(self.ipc)
        return SyntheticSet.of(
            self.images.flatten(0, 1),
            labels,
            self.dataset,
            factor=1,
            ipc=self.ipc,
            augmentation="color_crop_cutout_scale_rotate",
            method="averages",
        )
