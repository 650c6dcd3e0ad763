"""The field's datasets as facts: counts, statistics, licences, files and where to get them.

MD5 sums are those that torchvision checks its downloads by, and of its files unpacked.
"""

from rome_core.recipes.augmentation import SIGNS
from rome_core.recipes.dataset_facts import DatasetFacts, File
from rome_core.recipes.tinyimagenet_classes import CLASSES

_TEN_DIGITS = tuple(str(digit) for digit in range(10))


def _obtain(name: str, by_hand: str) -> str:
    return (
        f"Run `python -m rome_core fetch {name} --data-root FOLDER` where there is a network, or "
        f"{by_hand}"
    )


DIGITS = DatasetFacts(
    name="digits",
    title="Optical recognition of handwritten digits",
    classes=10,
    class_names=_TEN_DIGITS,
    shape=(1, 8, 8),
    train_per_class=(143, 146, 142, 147, 145, 146, 145, 144, 140, 144),
    test_per_class=(35, 36, 35, 36, 36, 36, 36, 35, 34, 36),
    mean=(0.3051,),
    std=(0.3762,),
    statistics_source="measured on the 1,442 training images, rounded to 4 digits",
    split="of each class, in file order, every fifth image is a test image",
    licence="CC BY 4.0",
    citation=(
        "E. Alpaydin and C. Kaynak. Optical Recognition of Handwritten Digits. "
        "UCI Machine Learning Repository, 1998."
    ),
    homepage="https://archive.ics.uci.edu/dataset/80",
    obtain="Comes with scikit-learn: pip install scikit-learn.",
    augmentation=SIGNS,
)


def _idx(folder: str, name: str, md5: str, packed_md5: str) -> File:
    """A file of MNIST's format; torchvision leaves it unpacked beside its archive."""
    path = f"{folder}/raw/{name}"
    return File(path, md5, instead=(File(f"{path}.gz", packed_md5),))


_IDX_BY_HAND = "put the four files *-ubyte.gz, packed or not, into {}/raw/ under the data root."

MNIST = DatasetFacts(
    name="mnist",
    title="MNIST",
    classes=10,
    class_names=_TEN_DIGITS,
    shape=(1, 28, 28),
    train_per_class=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    test_per_class=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    mean=(0.1307,),
    std=(0.3081,),
    statistics_source="as used by DC, DSA and DM",
    split="the authors' own",
    licence="CC BY-SA 3.0",
    citation=(
        "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner. Gradient-Based Learning Applied to "
        "Document Recognition. Proceedings of the IEEE 86(11), 1998."
    ),
    homepage="http://yann.lecun.com/exdb/mnist/",
    obtain=_obtain("mnist", _IDX_BY_HAND.format("MNIST")),
    augmentation=SIGNS,
    train_files=(
        _idx(
            "MNIST",
            "train-images-idx3-ubyte",
            "6bbc9ace898e44ae57da46a324031adb",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        ),
        _idx(
            "MNIST",
            "train-labels-idx1-ubyte",
            "a25bea736e30d166cdddb491f175f624",
            "d53e105ee54ea40749a09fcbcd1e9432",
        ),
    ),
    test_files=(
        _idx(
            "MNIST",
            "t10k-images-idx3-ubyte",
            "2646ac647ad5339dbf082846283269ea",
            "9fb629c4189551a2d022fa330f9573f3",
        ),
        _idx(
            "MNIST",
            "t10k-labels-idx1-ubyte",
            "27ae3e4e09519cfbb04c329615203637",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
)

FASHIONMNIST = DatasetFacts(
    name="fashionmnist",
    title="FashionMNIST",
    classes=10,
    class_names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    shape=(1, 28, 28),
    train_per_class=(6000,) * 10,
    test_per_class=(1000,) * 10,
    mean=(0.2861,),
    std=(0.3530,),
    statistics_source="as used by DC, DSA and DM",
    split="the authors' own",
    licence="MIT",
    citation=(
        "H. Xiao, K. Rasul and R. Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking "
        "Machine Learning Algorithms. arXiv:1708.07747, 2017."
    ),
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    obtain=_obtain("fashionmnist", _IDX_BY_HAND.format("FashionMNIST")),
    train_files=(
        _idx(
            "FashionMNIST",
            "train-images-idx3-ubyte",
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        ),
        _idx(
            "FashionMNIST",
            "train-labels-idx1-ubyte",
            "9018921c3c673c538a1fc5bad174d6f9",
            "25c81989df183df01b3e8a0aad5dffbe",
        ),
    ),
    test_files=(
        _idx(
            "FashionMNIST",
            "t10k-images-idx3-ubyte",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "bef4ecab320f06d8554ea6380940ec79",
        ),
        _idx(
            "FashionMNIST",
            "t10k-labels-idx1-ubyte",
            "15d484375f8d13e6eb1aabb0c3f46965",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
)


def _mat(name: str, md5: str) -> File:
    """torchvision puts it right under the root it is given."""
    return File(f"SVHN/{name}", md5, instead=(File(name, md5),))


_SVHN_PAGE = "http://ufldl.stanford.edu/housenumbers/"

SVHN = DatasetFacts(
    name="svhn",
    title="SVHN",
    classes=10,
    class_names=_TEN_DIGITS,
    shape=(3, 32, 32),
    train_per_class=(4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
    test_per_class=(1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
    mean=(0.4377, 0.4438, 0.4728),
    std=(0.1980, 0.2010, 0.1970),
    statistics_source="as used by DC, DSA and DM",
    split="the authors' own train and test; their extra images are not used",
    licence="for non-commercial use only",
    citation=(
        "Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu and A. Y. Ng. Reading Digits in Natural "
        "Images with Unsupervised Feature Learning. NIPS Workshop on Deep Learning and "
        "Unsupervised Feature Learning, 2011."
    ),
    homepage=_SVHN_PAGE,
    obtain=_obtain(
        "svhn",
        f"download train_32x32.mat and test_32x32.mat from {_SVHN_PAGE} into SVHN/ under the data "
        "root, or right under it.",
    ),
    augmentation=SIGNS,
    train_files=(_mat("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),),
    test_files=(_mat("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),),
)

_KRIZHEVSKY = (
    "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. "
    "University of Toronto, 2009."
)
_CIFAR_LICENCE = "none stated by its authors; used for research"
_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def _unpacked(archive: str, folder: str) -> str:
    return (
        f"download {archive} from {_CIFAR_PAGE} and unpack it so that {folder}/ lies under the "
        "data root."
    )


CIFAR10 = DatasetFacts(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    class_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    shape=(3, 32, 32),
    train_per_class=(5000,) * 10,
    test_per_class=(1000,) * 10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    statistics_source="as used by DC, DSA, DM, IDM, BACON and ROME",
    split="the authors' own",
    licence=_CIFAR_LICENCE,
    citation=_KRIZHEVSKY,
    homepage=_CIFAR_PAGE,
    obtain=_obtain("cifar10", _unpacked("cifar-10-python.tar.gz", "cifar-10-batches-py")),
    train_files=(
        File("cifar-10-batches-py/data_batch_1", "c99cafc152244af753f735de768cd75f"),
        File("cifar-10-batches-py/data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        File("cifar-10-batches-py/data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        File("cifar-10-batches-py/data_batch_4", "634d18415352ddfa80567beed471001a"),
        File("cifar-10-batches-py/data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test_files=(File("cifar-10-batches-py/test_batch", "40351d587109b95175f43aff81a1287e"),),
)

_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse "
    "mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy "
    "porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

CIFAR100 = DatasetFacts(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    class_names=tuple(_CIFAR100_CLASSES.split()),
    shape=(3, 32, 32),
    train_per_class=(500,) * 100,
    test_per_class=(100,) * 100,
    mean=(0.5071, 0.4866, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    statistics_source="as used by DC, DSA, DM and ROME (MTT and its heirs use CIFAR-10's here)",
    split="the authors' own",
    licence=_CIFAR_LICENCE,
    citation=_KRIZHEVSKY,
    homepage=_CIFAR_PAGE,
    obtain=_obtain("cifar100", _unpacked("cifar-100-python.tar.gz", "cifar-100-python")),
    train_files=(File("cifar-100-python/train", "16019d7e3df5f24257cddd939b257f8d"),),
    test_files=(File("cifar-100-python/test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
)

TINYIMAGENET = DatasetFacts(
    name="tinyimagenet",
    title="TinyImageNet",
    classes=200,
    class_names=tuple(CLASSES.values()),
    shape=(3, 64, 64),
    train_per_class=(500,) * 200,
    test_per_class=(50,) * 200,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    statistics_source="as used by DC, DSA, DM and MTT: those of ImageNet",
    split="the authors' own train and validation; their test labels were never published",
    licence=(
        "none of its own; its images are ImageNet's, for non-commercial research and education only"
    ),
    citation=("Y. Le and X. Yang. Tiny ImageNet Visual Recognition Challenge. CS 231N, 2015."),
    homepage="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    obtain=(
        "Run `python -m rome_core fetch tinyimagenet --data-root FOLDER`: it packs "
        "tiny-imagenet-200/ or tiny-imagenet-200.zip that lies under the data root into "
        "tinyimagenet.npz, and downloads the archive first where there is neither. The "
        "tinyimagenet.pt that DC published will do as well."
    ),
    train_files=(File("tinyimagenet.npz", None, instead=(File("tinyimagenet.pt", None),)),),
    packed_from=(
        File(
            "tiny-imagenet-200.zip",
            "90528d7ca1a48142e341f4ef8d21d0de",
            instead=(File("tiny-imagenet-200/", None),),
        ),
    ),
    synsets=tuple(CLASSES),
)
