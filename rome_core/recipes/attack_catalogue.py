"""The attacks there are, as catalogue entries: what each is, and the schema of its settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rome_core.recipes.attacks import SETTINGS
from rome_core.recipes.protocols import PROTOCOLS


@dataclass(frozen=True)
class Attack:
    """One attack; `aimed` ones can be targeted."""

    name: str
    title: str
    summary: str
    access: str
    aimed: bool
    paper: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "access": self.access,
            "modes": ["targeted", "untargeted"] if self.aimed else ["untargeted"],
            "paper": self.paper,
            "settings_schema": SETTINGS[self.name].model_json_schema(),
            "protocols": {
                protocol.id: names
                for protocol in PROTOCOLS.values()
                if (
                    names := [
                        entry.name
                        for entry in protocol.entries
                        if entry.settings.attack == self.name
                    ]
                )
            },
        }


_WHITE, _QUERY, _BOTH, _NONE = "white-box", "query", "both", "none"

ATTACKS: Final[Mapping[str, Attack]] = {
    attack.name: attack
    for attack in (
        Attack("clean", "No attack", "The test images as they are.", _NONE, False, ""),
        Attack(
            "clamp",
            "The domain's clamp alone",
            "The images clamped to [0,1] in the attack's space and nothing else: what an attack "
            "of zero strength does. In the reference domain it changes three pixels in four.",
            _NONE,
            False,
            "",
        ),
        Attack(
            "fgsm",
            "Fast gradient sign method",
            "One step of size epsilon along the sign of the gradient.",
            _WHITE,
            True,
            "Goodfellow et al. 2015",
        ),
        Attack(
            "pgd",
            "Projected gradient descent",
            "Repeated steepest steps, each projected back into the Linf or L2 ball and clamped.",
            _WHITE,
            True,
            "Madry et al. 2018",
        ),
        Attack(
            "deepfool",
            "DeepFool",
            "Steps to the nearest of the linearised decision boundaries: a small L2 perturbation.",
            _WHITE,
            True,
            "Moosavi-Dezfooli et al. 2016",
        ),
        Attack(
            "cw",
            "Carlini and Wagner, L2",
            "Adam on distance plus a margin, with or without a search for the weight of the two.",
            _WHITE,
            True,
            "Carlini and Wagner 2017",
        ),
        Attack(
            "apgd",
            "Auto-PGD",
            "PGD with momentum that chooses its own step sizes, on cross-entropy or DLR.",
            _WHITE,
            True,
            "Croce and Hein 2020",
        ),
        Attack(
            "fab",
            "Fast adaptive boundary",
            "Minimal perturbations by projections onto linearised boundaries and the box.",
            _WHITE,
            True,
            "Croce and Hein 2020",
        ),
        Attack(
            "square",
            "Square",
            "Random search with square windows: sees logits only.",
            _QUERY,
            True,
            "Andriushchenko et al. 2020",
        ),
        Attack(
            "autoattack",
            "AutoAttack",
            "APGD, FAB and Square one after another, each for the images that are left.",
            _BOTH,
            False,
            "Croce and Hein 2020",
        ),
        Attack(
            "spsa",
            "SPSA",
            "Gradients estimated from pairs of queries: sees logits only.",
            _QUERY,
            True,
            "Uesato et al. 2018",
        ),
        Attack(
            "mi-fgsm",
            "Momentum iterative FGSM",
            "Signed steps along an accumulated gradient: images that transfer to other models.",
            _WHITE,
            True,
            "Dong et al. 2018",
        ),
        Attack(
            "vmi-fgsm",
            "Variance-tuned momentum iterative FGSM",
            "MI-FGSM whose gradient is corrected by those of neighbours: transfers further.",
            _WHITE,
            True,
            "Wang and He 2021",
        ),
    )
}
