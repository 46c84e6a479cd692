"""The one configuration tree: frozen, typed, and strict about unknown keys.

Endpoints and secrets are not in it: they come from the environment, under the names that the ecosystem
uses (`MLFLOW_TRACKING_URI`, `PREFECT_API_URL`, `RAY_ADDRESS`, `AWS_*`). All durations are in images seen.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictInt,
    model_validator,
)

from ganmodels.spec import NetworkSpec
from pipeline.config_values import (
    Extra,
    Line,
    Name,
    Operation,
    PixelRange,
    Positive,
    colour,
    first_and_last,
    network_resolution,
    number_or_range,
    of_collectives,
    sorted_once,
)
from pipeline.digest import digest
from pipeline.errors import UserError
from pipeline.ingest.problems import Policy, complete_policies
from pipeline.scheduled import (
    Decay,
    Rate,
    ScheduledDecay,
    ScheduledRate,
    ScheduledShare,
    ScheduledWeight,
    Share,
    Weight,
)

# Marks a key that does not change the weights, so it is no part of a run's identity.
OPERATIONAL: dict[str, Any] = {"operational": True}

# Marks a key that came after the first runs: at its default it does not count, so that they keep their names.
LATER: dict[str, Any] = {"later": True}

LATER_OPERATIONAL = LATER | OPERATIONAL

_SHAPES = {"mnist5k": (28, 1), "stacked_mnist": (28, 3)}  # of built-in sources: pixels a side, channels

PACKAGED_FEATURES = "efficientnet-lite0"
OWN_CLASSIFIER = "own-classifier"

_SMOOTHED = ("saturating", "non_saturating")  # ganmodels.losses has it too, and takes torch along

# Goes into every run's identity: raise it when a change of the code changes the weights.
NUMERICS_VERSION = 3
# Beside it, where the change is to one family alone, so that the runs of the others keep their names.
FAMILY_NUMERICS = {"stylegan2": 1}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """The keys that change the weights."""
        return {key: value for key, value in self.counted().items() if not self._is(key, OPERATIONAL)}

    def counted(self) -> dict[str, Any]:
        """Every key, but those that came later and say nothing new."""
        return {
            key: value
            for key, value in self.model_dump(mode="json").items()
            if not self._is(key, LATER) or getattr(self, key) != type(self).model_fields[key].default
        }

    def _is(self, key: str, mark: dict[str, Any]) -> bool:
        extra = type(self).model_fields[key].json_schema_extra
        return isinstance(extra, dict) and mark.items() <= extra.items()


class DataGate(Section):
    """How far a dataset version may be from the last one that was trained on."""

    lost_classes: StrictInt = Field(0, ge=0, description="classes that may have no image any more")
    drop: Share = Field(0.1, description="share by which the number of images may fall")
    quarantined: Share = Field(0.1, description="share of the files that may be quarantined")
    size_shift: Share = Field(
        0.2, description="Kolmogorov-Smirnov distance by which the source widths, or the heights, may shift"
    )


class Data(Section):
    """Which images, and what is made of them."""

    source: str = Field(
        "mnist5k", min_length=1, json_schema_extra=OPERATIONAL,
        description="folder, zip, tar, Parquet, CSV or JSONL list, IDX, CIFAR-10 binaries, on local disk or under"
        " s3:// or gs://; or the built-in mnist5k or stacked_mnist",
    )  # fmt: skip
    # What they lead to counts, through the dataset's digest.
    labels: str = Field(
        "auto", min_length=1, json_schema_extra=OPERATIONAL,
        description="auto: sub-folders, the source's own labels, or the column `label`; none; column:NAME; or a JSON"
        " file of labels by path",
    )  # fmt: skip
    image_column: str | None = Field(
        None, min_length=1, json_schema_extra=OPERATIONAL,
        description="column of the images' bytes or paths; default: the only one",
    )  # fmt: skip
    resolution: Annotated[StrictInt | None, AfterValidator(network_resolution)] = Field(
        None, description="pixels a side: 28 or a power of two; default 28 for built-in digits, else 64"
    )
    channels: Literal[1, 3, None] = Field(None, description="1 grey or 3 RGB; default 1 for mnist5k, else 3")
    encoding: Literal["auto", "raw", "webp", "png", "jpeg"] = Field(
        "auto", description="how shards hold an image, all but jpeg lossless; auto: raw up to 128 px, then webp"
    )
    quality: StrictInt = Field(
        95, ge=1, le=100, json_schema_extra=OPERATIONAL,  # it counts through the dataset's digest, for jpeg alone
        description="of jpeg",
    )  # fmt: skip
    background: Annotated[str, BeforeValidator(colour)] = Field(
        "white", description='what lies under transparent pixels: white, black or "#rrggbb"'
    )
    # What comes of these three counts, through the dataset's digest.
    problems: Annotated[dict[str, Policy], BeforeValidator(complete_policies)] = Field(
        default_factory=lambda: complete_policies({}), json_schema_extra=OPERATIONAL,
        description="by problem: fix, quarantine, or a share of all files; above that the ingest fails",
    )  # fmt: skip
    min_side: Positive | None = Field(
        None, json_schema_extra=OPERATIONAL, description="pixels; too_small below it; default a quarter of resolution"
    )
    max_aspect: float = Field(
        8.0, ge=1, json_schema_extra=OPERATIONAL, description="longer by shorter side; extreme_aspect above it"
    )
    held_out: float = Field(0.05, ge=0.0, le=0.5, description="share of images that is never trained on")
    shard_images: Positive = Field(1000, description="images a shard")
    streams: Positive = Field(8, description="spans read side by side; the most workers that can share a batch")
    window: Positive = Field(2, description="shards among which a stream shuffles at a time")
    gate: DataGate = Field(DataGate(), json_schema_extra=OPERATIONAL, description="what stops a run before it trains")
    mirror: bool = Field(False, description="show half of the images, another half each time, flipped left to right")
    only: Annotated[tuple[str, ...], AfterValidator(sorted_once)] = Field(
        (), description="classes to train on; default: all"
    )
    balance: bool = Field(False, description="show each class as often as every other, however many images it has")
    on_damage: Literal["fail", "skip"] = Field(
        "fail", json_schema_extra=OPERATIONAL,  # so that a run that failed can go on
        description="an image whose bytes have changed ends the run, or is skipped and recorded with it",
    )  # fmt: skip
    loaders: StrictInt = Field(
        0, ge=0, json_schema_extra=OPERATIONAL,
        description="processes that read ahead for each worker; 0: it reads for itself",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_source(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        resolution, channels = _SHAPES.get(str(values.get("source", "mnist5k")), (64, 3))
        values = {**values}
        if values.get("resolution") is None:
            values["resolution"] = resolution
        if values.get("channels") is None:
            values["channels"] = channels
        if values.get("encoding", "auto") == "auto" and isinstance(values["resolution"], int):
            values["encoding"] = "raw" if values["resolution"] <= 128 else "webp"
        if values.get("min_side") is None and isinstance(values["resolution"], int):
            values["min_side"] = max(1, values["resolution"] // 4)
        return values


class Model(Section):
    """Which networks."""

    family: Literal["dcgan", "resnet", "r3gan", "stylegan2"] = "dcgan"
    z_dim: Positive = Field(64, description="length of a latent")
    width: Positive = Field(32, description="feature channels at full resolution")
    max_width: Positive = Field(512, description="feature channels at most")
    conditional: bool | None = Field(None, description="default: where the dataset has classes")
    widths: tuple[Positive, ...] = Field(
        NetworkSpec.widths, json_schema_extra=LATER,
        description="feature channels of each map, from the smallest up, instead of `width` and `max_width`",
    )  # fmt: skip
    cardinality: tuple[Positive, ...] = Field(
        NetworkSpec.cardinality, json_schema_extra=LATER,
        description="r3gan: groups of each map's 3x3 convolutions; default: an eighth of its width, or a little fewer",
    )  # fmt: skip
    blocks: Positive = Field(
        NetworkSpec.blocks, json_schema_extra=LATER, description="r3gan: residual blocks a resolution"
    )
    spectral_norm: Literal["none", "discriminator", "both"] = Field(
        "none", json_schema_extra=LATER, description="resnet: whose weights are divided by their largest singular value"
    )
    attention: StrictInt = Field(
        NetworkSpec.attention, ge=0, json_schema_extra=LATER,
        description="resnet: side in pixels of the maps that attend to themselves; 0: none",
    )  # fmt: skip
    bigan: bool = Field(
        NetworkSpec.bigan, json_schema_extra=LATER,
        description="resnet: an encoder learns along, from images back to latents, against a discriminator of pairs",
    )  # fmt: skip
    w_dim: Positive = Field(NetworkSpec.w_dim, json_schema_extra=LATER, description="stylegan2: length of a style")
    mapping_layers: Positive = Field(NetworkSpec.mapping_layers, json_schema_extra=LATER, description="stylegan2")
    group: Positive = Field(
        NetworkSpec.group, json_schema_extra=LATER, description="stylegan2: rows of a minibatch standard deviation"
    )


class Training(Section):
    """How the networks are trained."""

    images: Positive = Field(200_000, json_schema_extra=OPERATIONAL, description="real images seen in all")
    batch: Positive = Field(64, description="images a step, over all workers")
    accumulate: Positive = Field(
        1, json_schema_extra=LATER,
        description="parts that a step takes one after the other, to need less memory; each is a batch of its own to"
        " what looks across rows, such as batch normalisation",
    )  # fmt: skip
    loss: Literal[
        "saturating", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic", "relativistic_average"
    ] = "non_saturating"
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, json_schema_extra=LATER, description="real images are told to be real with 1 less this"
    )
    r1: ScheduledWeight = Field(1.0, description="gamma of R1, on real images; a number or a schedule")
    r2: ScheduledWeight = Field(0.0, description="gamma of R2, on generated images; a number or a schedule")
    gp: ScheduledWeight = Field(
        0.0, json_schema_extra=LATER, description="weight of WGAN-GP, between the two; a number or a schedule"
    )
    penalty_every: Positive = Field(4, description="steps from one penalty to the next")
    penalty_method: Literal["exact", "finite_difference"] = Field(
        "exact", json_schema_extra=LATER, description="finite_difference needs no double backward, and more passes"
    )
    learning_rate: ScheduledRate = Field(5e-4, description="of Adam; a number or a schedule")
    beta1: Decay = 0.0
    beta2: ScheduledDecay = Field(0.99, description="of Adam; a number or a schedule")
    ema_half_life: ScheduledWeight = Field(
        10_000,
        description="images until a weight counts half in the average: a number, at most a twentieth of the images"
        " seen; or a schedule, as it says",
    )
    augment: Literal["none", "diffaugment", "ada"] = Field(
        "none", json_schema_extra=LATER, description="what the discriminator sees images through"
    )
    augment_p: ScheduledShare | None = Field(
        None, json_schema_extra=LATER,
        description="ada: how often each operation happens, a number or a schedule; default: as the discriminator"
        " overfits, by the signs of its real logits",
    )  # fmt: skip
    augment_target: Share = Field(
        0.6, json_schema_extra=LATER, description="ada: the mean sign above which p grows, where it is not given"
    )
    augment_images: Rate = Field(
        500_000, json_schema_extra=LATER, description="ada: images in which p goes from 0 to 1 at most, likewise"
    )
    augment_operations: dict[Operation, Weight] = Field(
        {}, json_schema_extra=LATER, description="ada: what multiplies p for an operation, where not the default"
    )
    seed: StrictInt = Field(0, ge=0)
    init: str | None = Field(
        None,
        min_length=1,
        json_schema_extra=OPERATIONAL,  # the weights that it names count, not the name
        description="MODEL@ALIAS whose generator to start from",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware gains")
    # Compiled arithmetic has other last bits, so it is part of what a run is.
    compile: bool = Field(
        False, json_schema_extra=LATER,
        description="torch compiles the generator's passes, and those of the discriminator that no penalty is taken of;"
        " a minute at the start, and it takes a compiler: of C++ on a CPU, of C on a GPU",
    )  # fmt: skip
    log_every: Positive = Field(2_000, json_schema_extra=OPERATIONAL, description="images between telemetry points")
    checkpoint_every: Positive = Field(20_000, json_schema_extra=OPERATIONAL, description="images between checkpoints")
    keep_last: Positive = Field(3, json_schema_extra=LATER_OPERATIONAL, description="newest checkpoints that are kept")
    keep_best: StrictInt = Field(
        1, ge=0, json_schema_extra=LATER_OPERATIONAL,
        description="checkpoints that are kept for the lowest Frechet distance, where evaluate_images measures it",
    )  # fmt: skip
    evaluate_every: Positive = Field(
        20_000, json_schema_extra=OPERATIONAL, description="images between sample grids, and measurements"
    )
    evaluate_images: StrictInt = Field(
        0, ge=0, json_schema_extra=LATER_OPERATIONAL,
        description="generated images to measure at each; 0: a grid alone, 4 at least",
    )  # fmt: skip
    plateau: Positive | None = Field(
        None, json_schema_extra=LATER_OPERATIONAL,
        description="measurements in a row without a lower Frechet distance, after which the run is done",
    )  # fmt: skip
    max_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, json_schema_extra=LATER_OPERATIONAL,
        description="of a start of the run, which then stops at a checkpoint; the same command goes on",
    )  # fmt: skip
    # It decides on weights only where there are such steps, and is recorded with the run then.
    nonfinite_steps: Positive = Field(
        10, json_schema_extra=LATER_OPERATIONAL,
        description="steps in a row without finite losses and gradients, each skipped, until the run goes back to its"
        " last good checkpoint with half the learning rate; where that does not help, it ends",
    )  # fmt: skip
    profile: Annotated[str, AfterValidator(first_and_last)] | None = Field(
        None, json_schema_extra=LATER_OPERATIONAL,
        description="steps FROM-TO of which torch's profiler writes a trace into the run's folder",
    )  # fmt: skip

    @model_validator(mode="after")
    def _augments(self) -> "Training":
        ada, follows = self.augment == "ada", self.augment == "ada" and self.augment_p is None
        taken = {
            "augment_p": ada, "augment_operations": ada, "augment_target": follows, "augment_images": follows,
        }  # fmt: skip
        for key, has_meaning in taken.items():
            if not has_meaning and getattr(self, key) != type(self).model_fields[key].default:
                needed = "ada without augment_p" if key in ("augment_target", "augment_images") else "ada"
                raise ValueError(f"{key} has no meaning here; it is for augment {needed}")
        if follows and self.loss.startswith("relativistic"):
            raise ValueError(f"augment_p can not follow the signs of logits under loss {self.loss}; give augment_p")
        return self

    @model_validator(mode="after")
    def _smooths_labels(self) -> "Training":
        if self.label_smoothing and self.loss not in _SMOOTHED:
            raise ValueError(f"label_smoothing has no meaning for loss {self.loss}; it is for {', '.join(_SMOOTHED)}")
        return self


class Evaluation(Section):
    """How a generator is measured, and what the gate asks for."""

    images: StrictInt = Field(2_000, ge=6, description="generated images a seed")
    seeds: tuple[Annotated[StrictInt, Field(ge=0)], ...] = Field((0, 1), min_length=2, description="generation seeds")
    minimum_images: Positive = Field(2_000, description="images a side that it takes to replace a champion")
    extra: Annotated[tuple[Extra, ...], AfterValidator(sorted_once)] = Field(
        (), json_schema_extra=LATER, description="figures that cost as much as all others together, and more"
    )
    features: str = Field(
        PACKAGED_FEATURES, min_length=1, json_schema_extra=LATER,
        description="efficientnet-lite0; own-classifier, trained on the dataset's labels; or a TorchScript module: a"
        " local path, https://, s3:// or gs://",
    )  # fmt: skip
    features_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, json_schema_extra=LATER, description="of the module's file, which is not loaded if it has another"
    )
    features_pixels: Positive | None = Field(None, json_schema_extra=LATER, description="a side that the module takes")
    features_range: PixelRange = Field(
        "0-255", json_schema_extra=LATER, description="of the pixels that the module takes, as float32"
    )

    @model_validator(mode="after")
    def _module_is_known(self) -> "Evaluation":
        ours = self.features in (PACKAGED_FEATURES, OWN_CLASSIFIER)
        for key in ("features_sha256", "features_pixels"):
            if ours != (getattr(self, key) is None):
                told = f"has no meaning for {self.features}" if ours else f"is needed for features {self.features}"
                raise ValueError(f"{key} {told}")
        if ours and self.features_range != "0-255":
            raise ValueError(f"features_range has no meaning for {self.features}")
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Evaluation":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ: the same images twice tell no more")
        return self


class Limit(Section):
    """Bounds of a figure; the bounds themselves are allowed."""

    least: FiniteFloat | None = None
    most: FiniteFloat | None = None

    @model_validator(mode="after")
    def _leaves_something(self) -> "Limit":
        if self.least is None and self.most is None:
            raise ValueError("give least, most or both")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"nothing is at least {self.least:g} and at most {self.most:g}")
        return self


class Release(Section):
    """Where the generator goes, and what the gate asks of it, champion or no champion."""

    model: Name | None = Field(None, description="name in the registry; default: the recipe's name")
    limits: dict[str, Limit] = Field(
        {}, json_schema_extra=LATER,
        description="by a figure's short name, {least: 0.1, most: 50}; one that is missing is outside",
    )  # fmt: skip
    minimum_coverage: Share = Field(
        0.05, json_schema_extra=LATER,
        description="share of the held-out images that have a generated one among their like; 0: not asked, nor of"
        " fewer than 200 held-out images",
    )  # fmt: skip
    licence: Line | None = Field(
        None, json_schema_extra=LATER, description="what the released generator may be used for, CC-BY-4.0 say"
    )


class Cluster(Section):
    """What it runs on."""

    workers: Annotated[int | str | None, BeforeValidator(number_or_range)] = Field(
        None,
        description="training processes: a number; a range such as 1-4, to go on with what is there as machines come"
        " and go; 0: in this process, without Ray; default: one a GPU, else one a core, two at most",
    )  # fmt: skip
    cpus_per_worker: Positive | None = Field(
        None, json_schema_extra=LATER, description="default: the share of a single machine, and 1 on several"
    )
    placement: Literal["PACK", "SPREAD"] = Field(
        "PACK", json_schema_extra=LATER, description="workers on as few machines as they fit on, or on as many"
    )
    wait_seconds: StrictInt = Field(
        60, ge=0, json_schema_extra=LATER,
        description="how long a cluster named by RAY_ADDRESS may take to have what the workers need, once it was asked",
    )  # fmt: skip
    stall_seconds: Positive = Field(
        15, json_schema_extra=LATER,
        description="silence after which a worker counts as stalled: it is named, killed, and the group started again",
    )  # fmt: skip
    environment: Annotated[dict[str, str], AfterValidator(of_collectives)] = Field(
        {}, json_schema_extra=LATER, description="settings of NCCL and gloo for the workers, NCCL_SOCKET_IFNAME say"
    )

    @property
    def sizes(self) -> tuple[int, int] | None:
        """The fewest and the most workers; None: what there is."""
        if self.workers is None:
            return None
        fewest, _, most = str(self.workers).partition("-")
        return int(fewest), int(most or fewest)

    @property
    def most(self) -> int:
        """Workers at most, as far as the recipe says; 1 otherwise."""
        return self.sizes[1] if self.sizes else 1


class Config(Section):
    """A recipe, resolved."""

    name: Name
    data: Data = Field(default_factory=lambda: Data.model_validate({}))
    model: Model = Model()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    release: Release = Release()
    cluster: Cluster = Cluster()
    storage: str | None = Field(None, description="default: GANLINE_STORAGE, else .ganline here")

    @model_validator(mode="after")
    def _streams_share_the_batch(self) -> "Config":
        if self.training.batch % self.data.streams:
            raise ValueError(
                f"training.batch {self.training.batch} is not a multiple of data.streams {self.data.streams}"
            )
        rows = self.training.batch // self.data.streams
        if rows % self.training.accumulate:
            raise ValueError(
                f"training.accumulate {self.training.accumulate} does not divide the {rows} rows that"
                f" training.batch {self.training.batch} gives each of data.streams {self.data.streams}"
            )
        if self.cluster.most > self.data.streams:
            raise ValueError(f"cluster.workers {self.cluster.workers} is more than data.streams {self.data.streams}")
        return self

    @model_validator(mode="after")
    def _plateau_is_measured(self) -> "Config":
        if self.training.plateau and not self.training.evaluate_images:
            raise ValueError("training.plateau has no meaning without training.evaluate_images")
        if 0 < self.training.evaluate_images < 4:
            raise ValueError("training.evaluate_images is 0 or 4 at least")
        return self

    @property
    def model_name(self) -> str:
        return self.release.model or self.name

    def network_spec(self, channels: int, classes: int) -> NetworkSpec:
        """The networks for a dataset of this many channels and classes."""
        conditional = classes > 0 if self.model.conditional is None else self.model.conditional
        if conditional and not classes:
            raise UserError(
                "model.conditional is true but the images have no classes;"
                " put each class in a sub-folder, or leave it out"
            )
        assert self.data.resolution is not None
        given = {name: getattr(self.model, name) for name in type(self.model).model_fields if name != "conditional"}
        spec = NetworkSpec(
            resolution=self.data.resolution, channels=channels, classes=classes if conditional else 0, **given
        )
        import torch  # only here: most commands do without

        from ganmodels.networks import build_discriminator, build_generator, rows_together

        try:
            with torch.device("meta"):  # shapes alone
                build_generator(spec), build_discriminator(spec)
            together = rows_together(spec)
        except ValueError as error:
            raise UserError(f"model: {error}") from None
        rows = self.training.batch // self.data.streams // self.training.accumulate
        if rows % together:
            raise UserError(
                f"model.group {together} does not divide the {rows} rows that a stream has at a time"
                " (training.batch / data.streams / training.accumulate)"
            )
        return spec

    def run_name(
        self, dataset_digest: str, precision: str, init_sha256: str | None = None, fork_sha256: str | None = None
    ) -> str:
        """`<name>-<12 hex>`: the same for everything that gives the same weights.

        `precision` is resolved, `init_sha256` names the weights behind `training.init`, `fork_sha256` the checkpoint
        that a fork begins with.
        """
        of_family = FAMILY_NUMERICS.get(self.model.family)
        parts = {
            "numerics": [NUMERICS_VERSION, of_family] if of_family else NUMERICS_VERSION,
            "dataset": dataset_digest,
            "data": self.data.identity(),
            "model": self.model.identity(),
            "training": {**self.training.identity(), "precision": precision, "init": init_sha256},
            **({"fork": fork_sha256} if fork_sha256 else {}),
        }
        return f"{self.name}-{digest(parts)[:12]}"

    def digest(self) -> str:
        sections = {key: value.counted() for key, value in self if isinstance(value, Section)}
        return digest({**self.model_dump(mode="json"), **sections})
