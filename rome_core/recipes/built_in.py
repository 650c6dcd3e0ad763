"""The methods that come with the project, in the order the catalogue shows them.

Their implementations are listed under the same names in `rome_core.runner.distill`.
"""

from rome_core.recipes import (
    bacon,
    bptt,
    coresets,
    dm,
    full,
    gradient_matching,
    gradient_matching_presets,
    idm,
    mtt,
    mtt_presets,
    pool,
    random,
    robust_features,
    rome,
)
from rome_core.recipes.method import MethodRecipe

BUILT_IN = (
    MethodRecipe(
        name="rome",
        title="ROME",
        summary=(
            "Robust dataset distillation by matching adversarial features against a pool of "
            "adversarially trained networks."
        ),
        hyperparameters=rome.RomeHyperparameters,
        presets=rome.PRESETS,
        paper="Zhou et al., ROME is Forged in Adversity, ICML 2025",
        images_per_class=rome.images_per_class,
        predict_cost=pool.predict_cost,
    ),
    MethodRecipe(
        name="idm",
        title="IDM",
        summary=(
            "Matching of mean embeddings and classification by a pool of networks that learn from "
            "real images, clean or attacked."
        ),
        hyperparameters=idm.IdmHyperparameters,
        presets=idm.PRESETS,
        paper="Zhao et al., Improved Distribution Matching for Dataset Condensation, CVPR 2023",
        images_per_class=idm.images_per_class,
        predict_cost=pool.predict_cost,
    ),
    MethodRecipe(
        name="bacon",
        title="BACON",
        summary=(
            "IDM with a Gaussian likelihood and a total variation of mean embeddings in the place "
            "of their distance."
        ),
        hyperparameters=bacon.BaconHyperparameters,
        presets=bacon.PRESETS,
        paper="Zhou et al., BACON: Bayesian Optimal Condensation Framework for Dataset "
        "Distillation, arXiv 2406.01112, 2024",
        images_per_class=bacon.images_per_class,
        predict_cost=pool.predict_cost,
    ),
    MethodRecipe(
        name="mtt",
        title="MTT",
        summary=(
            "Images on which a few steps of a student lead where epochs on real images led an "
            "expert, clean or adversarially trained; the step size is learned with them."
        ),
        hyperparameters=mtt.MttHyperparameters,
        presets=mtt_presets.PRESETS,
        paper="Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR "
        "2022",
        images_per_class=mtt.images_per_class,
        experts=mtt.experts,
        predict_cost=mtt.predict_cost,
    ),
    MethodRecipe(
        name="bptt",
        title="BPTT",
        summary=(
            "Images, labels and step size by the gradient, through a student's training, of its "
            "loss on real images, as they are or attacked against it."
        ),
        hyperparameters=bptt.BpttHyperparameters,
        presets=bptt.PRESETS,
        paper="Feng et al., Embarrassingly Simple Dataset Distillation, ICLR 2024",
        images_per_class=bptt.images_per_class,
        predict_cost=bptt.predict_cost,
    ),
    MethodRecipe(
        name="dm",
        title="DM",
        summary="Matching of mean embeddings in networks that have learned nothing.",
        hyperparameters=dm.DmHyperparameters,
        presets=dm.PRESETS,
        paper="Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023",
        images_per_class=dm.images_per_class,
        predict_cost=dm.predict_cost,
    ),
    MethodRecipe(
        name="dc",
        title="DC",
        summary=(
            "Matching, class by class, of the gradients that synthetic and real images give a "
            "network while it learns from the synthetic ones."
        ),
        hyperparameters=gradient_matching.DcHyperparameters,
        presets=gradient_matching_presets.DC_PRESETS,
        paper="Zhao et al., Dataset Condensation with Gradient Matching, ICLR 2021",
        images_per_class=gradient_matching.images_per_class,
        predict_cost=gradient_matching.predict_cost,
    ),
    MethodRecipe(
        name="dsa",
        title="DSA",
        summary="DC with real and synthetic images of a class augmented alike.",
        hyperparameters=gradient_matching.DsaHyperparameters,
        presets=gradient_matching_presets.DSA_PRESETS,
        paper="Zhao and Bilen, Dataset Condensation with Differentiable Siamese Augmentation, "
        "ICML 2021",
        images_per_class=gradient_matching.images_per_class,
        predict_cost=gradient_matching.predict_cost,
    ),
    MethodRecipe(
        name="random",
        title="Random real subset",
        summary="Real training images drawn at random: the baseline of the same size.",
        hyperparameters=random.RandomHyperparameters,
        presets=random.PRESETS,
        paper="",
        images_per_class=random.images_per_class,
    ),
    MethodRecipe(
        name="herding",
        title="Herding",
        summary="Real images whose mean stays near that of their class in a network's embedding.",
        hyperparameters=coresets.HerdingHyperparameters,
        presets=coresets.PRESETS["herding"],
        paper="Welling, Herding Dynamical Weights to Learn, ICML 2009; Rebuffi et al., iCaRL, "
        "CVPR 2017",
        images_per_class=coresets.images_per_class,
        experts=coresets.experts,
        network=coresets.network,
        predict_cost=coresets.predict_cost,
    ),
    MethodRecipe(
        name="k_center",
        title="k-center",
        summary="Real images, each the farthest from those before it in a network's embedding.",
        hyperparameters=coresets.KCenterHyperparameters,
        presets=coresets.PRESETS["k_center"],
        paper="Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set "
        "Approach, ICLR 2018",
        images_per_class=coresets.images_per_class,
        experts=coresets.experts,
        network=coresets.network,
        predict_cost=coresets.predict_cost,
    ),
    MethodRecipe(
        name="k_means",
        title="k-means",
        summary="Real images nearest to the means of clusters in a network's embedding.",
        hyperparameters=coresets.KMeansHyperparameters,
        presets=coresets.PRESETS["k_means"],
        paper="Cui et al., DC-BENCH: Dataset Condensation Benchmark, NeurIPS 2022",
        images_per_class=coresets.images_per_class,
        experts=coresets.experts,
        network=coresets.network,
        predict_cost=coresets.predict_cost,
    ),
    MethodRecipe(
        name="forgetting",
        title="Forgetting",
        summary="Real images that a network unlearned most often while it was trained.",
        hyperparameters=coresets.ForgettingHyperparameters,
        presets=coresets.PRESETS["forgetting"],
        paper="Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network "
        "Learning, ICLR 2019",
        images_per_class=coresets.images_per_class,
        experts=coresets.experts,
        network=coresets.network,
        predict_cost=coresets.predict_cost,
    ),
    MethodRecipe(
        name="full",
        title="Full data",
        summary="The whole training set, trained on like a distilled one: the ceiling.",
        hyperparameters=full.FullHyperparameters,
        presets={},
        paper="",
        predict_cost=full.predict_cost,
        takes_ipc=False,
    ),
    MethodRecipe(
        name="robust_features",
        title="Robust features of a teacher",
        summary=(
            "Images that carry the features an adversarially trained network sees, with its "
            "probabilities as labels: an experiment."
        ),
        hyperparameters=robust_features.RobustFeaturesHyperparameters,
        presets=robust_features.PRESETS,
        paper="after Ilyas et al., Adversarial Examples Are Not Bugs, They Are Features, "
        "NeurIPS 2019",
        images_per_class=robust_features.images_per_class,
        experts=robust_features.experts,
        network=robust_features.network,
        predict_cost=robust_features.predict_cost,
    ),
)
