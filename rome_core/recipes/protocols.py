"""Evaluation protocols as data: named, versioned, complete.

A number means nothing without the protocol it was measured under. A protocol fixes the space that
attacks move in, every attack's settings, which images are attacked and how targets are chosen; a
job may override settings, and its result then says so. Numbers of different protocols, or of one
protocol with different overrides, are never compared.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import ValidationError

from rome_core.recipes.attacks import (
    MODES,
    ApgdSettings,
    AutoAttackSettings,
    ClampSettings,
    CleanSettings,
    CwSettings,
    DeepFoolSettings,
    Domain,
    FabSettings,
    FgsmSettings,
    MiFgsmSettings,
    Mode,
    PgdSettings,
    Settings,
    SpsaSettings,
    SquareSettings,
    VmiFgsmSettings,
)
from rome_core.recipes.problems import FieldProblem, SpecError, from_validation, unknown_name

Access = Literal["none", "white-box", "query", "both"]
"""What the attacker sees: nothing is attacked, the gradients, the logits of its queries, or first
the one and then the other, as in AutoAttack, whose last stage is Square."""


@dataclass(frozen=True)
class Flaw:
    """Something a protocol does that a reader of its numbers must know of."""

    code: str
    text: str

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "text": self.text}


@dataclass(frozen=True)
class Entry:
    """One attack of a protocol.

    `modes` are those in which it means something; `inapplicable` says why not in the others.
    Where `keeps_original`, an image the attack fails on is classified as it was, unclamped.
    `published` is the attack's name in the published logs.
    """

    name: str
    title: str
    settings: Settings
    access: Access = "white-box"
    modes: tuple[Mode, ...] = MODES
    inapplicable: Mapping[Mode, str] = field(default_factory=dict)
    keeps_original: bool = False
    published: str | None = None
    flaws: tuple[Flaw, ...] = ()

    @property
    def threat(self) -> str | None:
        """The ball an image must stay in, such as `linf 8/255`; None where there is no one ball."""
        return threat(self.settings)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "access": self.access,
            "threat": self.threat,
            "modes": list(self.modes),
            "inapplicable": dict(self.inapplicable),
            "keeps_original": self.keeps_original,
            "published": self.published,
            "settings": self.settings.model_dump(mode="json"),
            "flaws": [flaw.as_dict() for flaw in self.flaws],
        }


@dataclass(frozen=True)
class Protocol:
    """One way to measure robustness, whole.

    `default` names the attacks that run unless a job chooses, `transfer` those of a transfer job.
    With `attacks_everything` images that are misclassified to begin with are attacked as well, and
    may come back right; without it they count as broken at no cost. `images` bounds how many test
    images are used, null for all.
    `probe_images` are looked at more closely for findings.
    """

    name: str
    version: int
    title: str
    summary: str
    source: str
    domain: Domain
    target_rule: str
    entries: tuple[Entry, ...]
    default: tuple[str, ...]
    attacks_everything: bool
    images: int | None
    probe_images: int
    transfer: tuple[str, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    overridden: tuple[str, ...] = ()  # paths such as pgd.steps

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """sha256 over everything that changes a number, overrides included."""
        content = self.as_dict()
        for words in ("title", "summary", "source", "flaws"):
            del content[words]
        for entry in content["attacks"]:
            del entry["title"], entry["flaws"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def entry(self, name: str) -> Entry:
        """The attack of that name. Raises KeyError."""
        return {entry.name: entry for entry in self.entries}[name]

    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "title": self.title,
            "summary": self.summary,
            "source": self.source,
            "domain": str(self.domain),
            "target_rule": self.target_rule,
            "attacks_everything": self.attacks_everything,
            "images": self.images,
            "probe_images": self.probe_images,
            "default": list(self.default),
            "transfer": list(self.transfer),
            "attacks": [entry.as_dict() for entry in self.entries],
            "flaws": [flaw.as_dict() for flaw in self.flaws],
            "overridden": list(self.overridden),
        }


def threat(settings: Settings) -> str | None:
    """`linf 8/255`, `l2 1/2`, or None where the settings name no ball."""
    epsilon = getattr(settings, "epsilon", None)
    if epsilon is None:
        return None
    norm = getattr(settings, "norm", "l2" if settings.attack in ("deepfool", "cw") else "linf")
    return f"{norm} {epsilon}"


_CLEAN = Entry("clean", "No attack", CleanSettings(), access="none", modes=(), published="Clean")
_CLAMP = Entry("clamp", "The clamp alone", ClampSettings(), access="none", modes=())

_UNTARGETED_ONLY: Mapping[Mode, str] = {"targeted": "it has no targeted form"}


def _published() -> Protocol:
    """BEARD's evaluation (arXiv 2411.09265) as its code runs it, also ROME's."""
    never_targeted: Mapping[Mode, str] = {
        "targeted": "the published code leaves the images clean here and records clean accuracy"
    }
    recorded = Flaw(
        "targeted_recorded_clean",
        "The published logs show clean accuracy as this attack's targeted accuracy; here it is not "
        "applicable.",
    )
    return Protocol(
        name="rome-2025",
        version=1,
        title="As published with BEARD and ROME, flaws included",
        summary="Attacks move normalised images and clamp them to [0,1]. For comparison with the "
        "published tables and with nothing else.",
        source="github.com/zhouzhengqd/BEARD at 1e70313 with torchattacks 3.5.1",
        domain=Domain.REFERENCE,
        target_rule="mod10",
        entries=(
            _CLEAN,
            _CLAMP,
            Entry("fgsm", "FGSM", FgsmSettings(), published="FGSM"),
            Entry(
                "pgd",
                "PGD-10, Linf",
                PgdSettings(step="2/225", random_start=False, early_stop=False),
                published="PGD",
                flaws=(Flaw("step_misprint", "The step is 2/225, a misprint of 2/255."),),
            ),
            Entry(
                "pgd-l2",
                "PGD-10, L2",
                PgdSettings(
                    norm="l2",
                    epsilon="128/255",
                    step="15/255",
                    random_start=False,
                    early_stop=False,
                ),
                published="PGD_L2",
                flaws=(
                    Flaw(
                        "inert",
                        "The clamp moves an image a hundred times as far as the ball allows, so "
                        "this attack measures the clamp alone.",
                    ),
                ),
            ),
            Entry(
                "deepfool",
                "DeepFool, 50 steps",
                DeepFoolSettings(overshoot_on="step", epsilon=None, classes=None),
                modes=("untargeted",),
                inapplicable=never_targeted,
                published="Deepfool",
                flaws=(
                    recorded,
                    Flaw(
                        "boundary_noise",
                        "It converges to the decision boundary itself: whether an image there is "
                        "right is rounding, and changes with the hardware.",
                    ),
                ),
            ),
            Entry(
                "cw",
                "Carlini and Wagner, c fixed, 100 steps",
                CwSettings(binary_search_steps=1, margin="published", stop="batch", epsilon=None),
                published="CW",
                flaws=(
                    Flaw(
                        "margin_zeroed",
                        "Negative logits count as zero in its loss, and a batch of 256 images "
                        "stops as one.",
                    ),
                ),
            ),
            Entry(
                "autoattack",
                "AutoAttack with 10 steps",
                AutoAttackSettings(steps=10),
                access="both",
                modes=("untargeted",),
                inapplicable=never_targeted,
                keeps_original=True,
                published="AA",
                flaws=(
                    recorded,
                    Flaw(
                        "not_standard",
                        "Its APGD and FAB make 10 steps where standard AutoAttack makes 100.",
                    ),
                    Flaw(
                        "fab_mended",
                        "The published FAB stage measures from the unclamped image, where nothing "
                        "lies within the ball, and never succeeds. Here it measures from the "
                        "clamped one and works, so this accuracy can only be lower.",
                    ),
                ),
            ),
            Entry(
                "square",
                "Square, 5000 queries",
                SquareSettings(),
                access="query",
                keeps_original=True,
                published="Square",
            ),
            Entry(
                "spsa",
                "SPSA, one step",
                SpsaSettings(steps=1, samples=256, early_stop=False),
                access="query",
                modes=("untargeted",),
                inapplicable={
                    "targeted": "the published code pulls images towards their own label here"
                },
                published="Spsa",
                flaws=(
                    Flaw(
                        "one_step",
                        "One step of 0.01 hardly moves an image: the number is the clamp's. The "
                        "published untargeted figure of this name is AutoAttack's.",
                    ),
                ),
            ),
        ),
        default=("clean", "clamp", "fgsm", "pgd", "pgd-l2", "deepfool", "cw", "autoattack"),
        transfer=("fgsm", "pgd", "pgd-l2", "deepfool", "cw", "autoattack"),
        attacks_everything=True,
        images=None,
        probe_images=128,
        flaws=(
            Flaw(
                "clamp_normalised",
                "Attacks move normalised images and clamp them to [0,1]: on CIFAR-10 three values "
                "in four change before any attack begins, and 8/255 is about 1.6/255 in pixels.",
            ),
            Flaw("targets_mod10", "Targets are (label + 1) mod 10 for any number of classes."),
            Flaw(
                "wall_clock",
                "The published attack efficiency is of single wall-clock measurements, which "
                "change with the machine; see timings.json beside the counted costs.",
            ),
        ),
    )


def _pixel() -> Protocol:
    """The field's standard threat models, after RobustBench (Croce et al. 2021)."""
    l2: dict[str, Any] = {"norm": "l2", "epsilon": "1/2"}
    return Protocol(
        name="pixel",
        version=1,
        title="Sound: pixels in [0,1], Linf 8/255 and L2 1/2, AutoAttack standard",
        summary="Attacks move pixels and the model normalises. An image is robust only if no "
        "attack of its ball changes a right answer.",
        source="the threat models of RobustBench, with AutoAttack standard (Croce and Hein 2020)",
        domain=Domain.PIXEL,
        target_rule="modC",
        entries=(
            _CLEAN,
            Entry("fgsm", "FGSM", FgsmSettings()),
            Entry("pgd", "PGD-20, Linf", PgdSettings(steps=20)),
            Entry("apgd-ce", "APGD on cross-entropy, Linf", ApgdSettings()),
            Entry("apgd-dlr", "APGD on DLR, Linf", ApgdSettings(loss="dlr")),
            Entry(
                "apgd-t",
                "APGD on targeted DLR, Linf",
                ApgdSettings(loss="dlr-targeted"),
                modes=("untargeted",),
                inapplicable=_UNTARGETED_ONLY,
            ),
            Entry("fab-t", "FAB-T, Linf", FabSettings()),
            Entry("square", "Square, Linf, 5000 queries", SquareSettings(), access="query"),
            Entry("spsa", "SPSA, 40 steps of 128 queries", SpsaSettings(), access="query"),
            Entry("mi-fgsm", "MI-FGSM", MiFgsmSettings()),
            Entry("vmi-fgsm", "VMI-FGSM", VmiFgsmSettings()),
            Entry(
                "autoattack",
                "AutoAttack standard, Linf",
                AutoAttackSettings(),
                access="both",
                modes=("untargeted",),
                inapplicable=_UNTARGETED_ONLY,
            ),
            Entry(
                "autoattack-plus",
                "AutoAttack plus, Linf",
                AutoAttackSettings(version="plus"),
                access="both",
                modes=("untargeted",),
                inapplicable=_UNTARGETED_ONLY,
            ),
            Entry(
                "autoattack-rand",
                "AutoAttack rand, Linf, for models that draw",
                AutoAttackSettings(version="rand"),
                access="both",
                modes=("untargeted",),
                inapplicable=_UNTARGETED_ONLY,
            ),
            Entry("pgd-l2", "PGD-20, L2", PgdSettings(steps=20, step="1/16", **l2)),
            Entry("deepfool", "DeepFool, L2", DeepFoolSettings()),
            Entry("cw", "Carlini and Wagner with search, L2", CwSettings()),
            Entry("apgd-ce-l2", "APGD on cross-entropy, L2", ApgdSettings(**l2)),
            Entry("square-l2", "Square, L2, 5000 queries", SquareSettings(**l2), access="query"),
            Entry(
                "autoattack-l2",
                "AutoAttack standard, L2",
                AutoAttackSettings(**l2),
                access="both",
                modes=("untargeted",),
                inapplicable=_UNTARGETED_ONLY,
            ),
        ),
        default=("clean", "fgsm", "pgd", "autoattack", "pgd-l2", "deepfool", "cw", "autoattack-l2"),
        transfer=("fgsm", "pgd", "mi-fgsm", "vmi-fgsm"),
        attacks_everything=False,
        images=None,
        probe_images=128,
    )


def _quick() -> Protocol:
    l2: dict[str, Any] = {"norm": "l2", "epsilon": "1/2"}
    return Protocol(
        name="quick",
        version=1,
        title="The pixel protocol's threats at a CPU's size",
        summary="Fewer images, steps and queries: a first look. What it breaks is broken; what it "
        "leaves may not be robust.",
        source="this project, sized for two CPU cores",
        domain=Domain.PIXEL,
        target_rule="modC",
        entries=(
            _CLEAN,
            Entry("fgsm", "FGSM", FgsmSettings()),
            Entry("pgd", "PGD-10, Linf", PgdSettings()),
            Entry("apgd-ce", "APGD on cross-entropy, 20 steps, Linf", ApgdSettings(steps=20)),
            Entry(
                "square", "Square, Linf, 200 queries", SquareSettings(queries=200), access="query"
            ),
            Entry("mi-fgsm", "MI-FGSM", MiFgsmSettings()),
            Entry(
                "autoattack",
                "AutoAttack with 10 steps and 200 queries, Linf",
                AutoAttackSettings(steps=10, queries=200),
                access="both",
                modes=("untargeted",),
                inapplicable=_UNTARGETED_ONLY,
                flaws=(
                    Flaw("not_standard", "Standard AutoAttack makes 100 steps and 5000 queries."),
                ),
            ),
            Entry("pgd-l2", "PGD-10, L2", PgdSettings(step="1/8", **l2)),
            Entry("deepfool", "DeepFool, L2", DeepFoolSettings(steps=20)),
        ),
        default=("clean", "fgsm", "pgd", "apgd-ce", "square", "pgd-l2", "deepfool"),
        transfer=("fgsm", "pgd", "mi-fgsm"),
        attacks_everything=False,
        images=500,
        probe_images=64,
        flaws=(
            Flaw("small_budget", "Few steps, queries and images: an upper bound of robustness."),
        ),
    )


PROTOCOLS: Final[Mapping[str, Protocol]] = MappingProxyType(
    {protocol.id: protocol for protocol in (_published(), _pixel(), _quick())}
)
"""Every protocol by id. A protocol never changes: what must change becomes the next version."""

LATEST: Final[Mapping[str, Protocol]] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in sorted(PROTOCOLS.values(), key=lambda protocol: protocol.version)
    }
)


def find(name: str) -> Protocol | None:
    """`pixel` is its newest version, `pixel@1` that one."""
    return PROTOCOLS.get(name) or LATEST.get(name)


def unknown_protocol(field_name: str, name: object) -> FieldProblem:
    return unknown_name(field_name, "protocol", name, [*LATEST, *PROTOCOLS])


def overridden(
    protocol: Protocol, changes: Mapping[str, Mapping[str, Any]], at: str = "overrides"
) -> Protocol:
    """The protocol with some settings changed, by attack and field; others' attacks are ignored.

    Raises SpecError with every problem.
    """
    problems: list[FieldProblem] = []
    entries, paths = [], list(protocol.overridden)
    for entry in protocol.entries:
        given = dict(changes.get(entry.name, {}))
        kind = type(entry.settings)
        if "attack" in given:
            problems.append(
                FieldProblem(
                    f"{at}.{entry.name}.attack",
                    "an attack cannot become another",
                    f"Leave it out, and choose among: {', '.join(protocol.names())}.",
                )
            )
            continue
        before = entry.settings.model_dump(mode="json")
        try:
            settings = kind.model_validate({**before, **given})
        except ValidationError as error:
            problems += from_validation(error, kind, f"{at}.{entry.name}")
            continue
        after = settings.model_dump(mode="json")
        paths += [f"{entry.name}.{name}" for name in sorted(after) if after[name] != before[name]]
        entries.append(replace(entry, settings=settings))
    if problems:
        raise SpecError(problems)
    return replace(protocol, entries=tuple(entries), overridden=tuple(paths))


def crafting(protocol: Protocol) -> Protocol:
    """The protocol as it crafts images for other models: all steps, on every image.

    An image that its own model errs on, or that broke early, would hardly be attacked otherwise.
    """
    entries = tuple(
        replace(entry, settings=entry.settings.model_copy(update={"early_stop": False}))
        if "early_stop" in type(entry.settings).model_fields
        else entry
        for entry in protocol.entries
    )
    return replace(protocol, entries=entries, attacks_everything=True)
