"""The keys of params.yaml that name classes, compared with the classes of the dataset."""

from collections.abc import Iterable, Iterator, Mapping

from seggen_core.config import SegGenConfig
from seggen_core.taxonomy import Taxonomy

_KEYS_BY_CLASS = ("class_cross_attention_layers", "synonyms", "sub_classes")
"""Keys of the attention methods that hold a mapping by class."""


def class_name_faults(config: SegGenConfig, *, taxonomy: Taxonomy) -> list[str]:
    """Return one sentence on all names that stop a stage, because the dataset has no such class.

    Args:
        config: whose keys are compared.
        taxonomy: the classes of the dataset.

    Returns:
        The sentence; an empty list if there is no such name.
    """
    unknown = _unknown(_needed_classes(config), taxonomy=taxonomy)
    return [f"{unknown}; {config.dataset.name} has {', '.join(taxonomy.slugs)}"] if unknown else []


def unused_class_names(config: SegGenConfig, *, taxonomy: Taxonomy) -> list[str]:
    """Return one sentence on all names that mean nothing, because the dataset has no such class.

    They may be typing errors, or come from the profile of another dataset. Arguments and result are
    those of `class_name_faults`.
    """
    unknown = _unknown(_classes_with_settings(config), taxonomy=taxonomy)
    what = "the dataset has no such class, so these settings mean nothing"
    return [f"{unknown}; {what}"] if unknown else []


def _unknown(named: Iterable[tuple[str, str]], *, taxonomy: Taxonomy) -> str:
    by_key: dict[str, list[str]] = {}
    for key, slug in named:
        if slug not in taxonomy.slugs:
            by_key.setdefault(key, []).append(slug)
    return "; ".join(f"{key} names {', '.join(slugs)}" for key, slugs in by_key.items())


def _needed_classes(config: SegGenConfig) -> Iterator[tuple[str, str]]:
    """Yield the key and the class of each name that a stage looks for."""
    yield from (("classes", slug) for slug in config.classes)
    for name, arm in config.variants.items():
        yield from ((f"variants.{name}.hidden_classes", slug) for slug in arm.hidden_classes)
        yield from ((f"variants.{name}.known_classes", slug) for slug in arm.known_classes)
    yield from (("zero_shot.unseen", slug) for slug in config.zero_shot.unseen)
    yield from (("zero_shot.left_out", slug) for slug in config.zero_shot.left_out)
    for name, groups in config.evaluate.groups.items():
        for group, slugs in groups.items():
            yield from ((f"evaluate.groups.{name}.{group}", slug) for slug in slugs)
    for name, test in config.transfer.items():
        for group, matched in test.classes.items():
            yield from ((f"transfer.{name}.classes.{group}.ours", slug) for slug in matched.ours)


def _classes_with_settings(config: SegGenConfig) -> Iterator[tuple[str, str]]:
    """Yield the key and the class of each setting of a class."""
    sections = {"seediff": config.seediff.model_dump()}
    if config.diffumask is not None:
        sections["diffumask"] = config.diffumask.model_dump()
    for name, recipe in config.mask_recipe.items():
        sections[f"mask_recipe.{name}.settings"] = recipe.settings
    for section, settings in sections.items():
        for key in _KEYS_BY_CLASS:
            by_class: Mapping[str, object] = settings.get(key, {})
            yield from ((f"{section}.{key}", slug) for slug in by_class)
    for place in config.checks.overrides:
        method, _, slug = place.partition("/")
        if slug:
            yield f"checks.overrides.{method}/", slug
