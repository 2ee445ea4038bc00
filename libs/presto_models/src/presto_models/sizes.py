"""Sizes of the transformer. All are our defaults: the paper states none of them.

Parameters are those of a `DiT` of that size; with `large`, 32 s of music are 689 latent frames.
"""

from presto_models.dit import DiTConfig


def micro() -> DiTConfig:
    """3,374,016 parameters, the bundled size: 16 thin blocks, deep enough to drop layers, small
    enough for two CPU cores."""
    return DiTConfig(width=128, depth=16, heads=4, text_attention=False, mlp_width=341)


def small() -> DiTConfig:
    """30,082,240 parameters: 12 blocks of width 384."""
    return DiTConfig(width=384, depth=12, heads=6)


def base() -> DiTConfig:
    """157,805,888 parameters: 16 blocks of width 768."""
    return DiTConfig(width=768, depth=16, heads=12)


def large() -> DiTConfig:
    """416,265,280 parameters: 24 blocks of width 1024, the size this project calls paper scale."""
    return DiTConfig()
