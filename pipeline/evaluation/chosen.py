"""Which features a recipe asks for."""

from pipeline.config import OWN_CLASSIFIER, PACKAGED_FEATURES, Evaluation
from pipeline.evaluation.features import FeatureExtractor
from pipeline.evaluation.own_classifier import own_classifier
from pipeline.evaluation.torchscript import TorchScriptFeatures
from pipeline.shards.manifest import DatasetRef
from pipeline.storage import Storage, cache_root


def chosen_features(
    storage: Storage, settings: Evaluation, dataset: DatasetRef, only: tuple[str, ...] = ()
) -> FeatureExtractor | None:
    """None: the packaged ones, at the size that suits the dataset. Nothing is fetched before features are computed,
    but the dataset's own classifier, of the classes `only`, is trained here if it is not there yet.
    """
    if settings.features == PACKAGED_FEATURES:
        return None
    if settings.features == OWN_CLASSIFIER:
        return own_classifier(storage, dataset, only)
    return module_features(storage, settings)


def module_features(storage: Storage, settings: Evaluation) -> TorchScriptFeatures:
    """Those of the TorchScript module that the recipe names."""
    assert settings.features_sha256 and settings.features_pixels  # the configuration asks for them
    return TorchScriptFeatures(
        settings.features,
        settings.features_sha256,
        settings.features_pixels,
        settings.features_range,
        cache_root(storage) / "features",
    )
