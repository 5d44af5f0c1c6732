"""The keys of params.yaml that name classes, compared with the classes of the dataset.

A name that is no class stops a stage late, or means nothing: layers, synonyms and limits of a class
that isn't there are never asked for.
"""

from collections.abc import Iterator, Mapping

from seggen_core.config import SegGenConfig
from seggen_core.taxonomy import Taxonomy

_KEYS_BY_CLASS = ("class_cross_attention_layers", "synonyms", "sub_classes")
"""Keys of the attention methods that hold a mapping by class."""


def class_name_faults(config: SegGenConfig, *, taxonomy: Taxonomy) -> list[str]:
    """Return one sentence on all names of classes that the dataset doesn't have; none if it has.

    Args:
        config: whose keys are compared.
        taxonomy: the classes of the dataset.
    """
    unknown: dict[str, list[str]] = {}
    for key, slug in _named_classes(config):
        if slug not in taxonomy.slugs:
            unknown.setdefault(key, []).append(slug)
    if not unknown:
        return []
    names = "; ".join(f"{key} names {', '.join(slugs)}" for key, slugs in unknown.items())
    return [f"{names}; {config.dataset.name} has {', '.join(taxonomy.slugs)}"]


def _named_classes(config: SegGenConfig) -> Iterator[tuple[str, str]]:
    """Yield each name of a class with its key."""
    yield from (("classes", slug) for slug in config.classes)
    sections = {"seediff": config.seediff.model_dump()}
    if config.diffumask is not None:
        sections["diffumask"] = config.diffumask.model_dump()
    for name, recipe in config.mask_recipe.items():
        sections[f"mask_recipe.{name}.settings"] = recipe.settings
    for section, settings in sections.items():
        for key in _KEYS_BY_CLASS:
            by_class: Mapping[str, object] = settings.get(key, {})
            yield from ((f"{section}.{key}", slug) for slug in by_class)
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
    for place in config.checks.overrides:
        if "/" in place:
            yield f"checks.overrides.{place}", place.split("/", 1)[1]
