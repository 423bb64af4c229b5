"""The key table between the authors' published state dicts and this library's.

The names on the left are those of the files in sacmehta/EdgeNets (MIT licence); the networks here are written from the
paper. An EESP unit keeps its branches in one weight, block after block, so the published
``spp_dw.<b>`` is its block b.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Each name is rewritten by the first rule of each block that fits, block after block.
_MODELS = (
    (r"^base_net\.basenet\.", r"backbone."),  # of a detector
    (r"^base_net\.level", r"backbone.level"),  # of a segmenter
    (r"^level", r"backbone.level"),  # of a classifier
    (r"^base_net\.extra_level6\.layer\.(\d)\.cbr\.", r"extra.0.\1."),
    (r"^base_net\.extra_level7\.layer\.(\d)\.cbr\.", r"extra.1.\1."),
    (r"^base_net\.extra_level8\.", r"extra.2."),
    (r"^base_net\.bu_3x3_5x5\.", r"pyramids.0."),
    (r"^base_net\.bu_5x5_10x10\.", r"pyramids.1."),
    (r"^base_net\.bu_10x10_19x19\.", r"pyramids.2."),
    (r"^base_net\.bu_19x19_38x38\.", r"pyramids.3."),
    (r"^bu_dec_l1\.", r"pyramids.0."),
    (r"^bu_dec_l2\.", r"pyramids.1."),
    (r"^bu_dec_l3\.", r"pyramids.2."),
    (r"^bu_dec_l4\.", r"pyramids.3."),
    (r"^merge_enc_dec_l2\.", r"skips.0."),
    (r"^merge_enc_dec_l3\.", r"skips.1."),
    (r"^merge_enc_dec_l4\.", r"skips.2."),
    (r"^bu_br_l2\.", r"merges.0."),
    (r"^bu_br_l3\.", r"merges.1."),
    (r"^bu_br_l4\.", r"merges.2."),
)
_BACKBONE = (
    (r"\.level(\d)_0\.", r".level\1.down."),
    (r"\.level([2-5])\.(\d)\.", r".level\1.units.\2."),
)
_PARTS = (
    (r"\.proj_1x1\.conv\.weight$", r".reduce_weight"),
    (r"\.spp_dw\.(\d)\.conv\.weight$", r".branch_weight[\1]"),
    (r"\.conv_1x1_exp\.conv\.weight$", r".expand_weight"),
    (r"\.proj_1x1\.bn\.", r".reduce_layers.0."),
    (r"\.proj_1x1\.act\.", r".reduce_layers.1."),
    (r"\.br_after_cat\.bn\.", r".branch_layers.0."),
    (r"\.br_after_cat\.act\.", r".branch_layers.1."),
    (r"\.conv_1x1_exp\.bn\.", r".expand_layers.0."),
    (r"\.module_act\.", r".activation."),
    (r"\.inp_reinf\.0\.conv\.", r".shortcut.0."),
    (r"\.inp_reinf\.0\.bn\.", r".shortcut.1."),
    (r"\.inp_reinf\.0\.act\.", r".shortcut.2."),
    (r"\.inp_reinf\.1\.conv\.", r".shortcut.3."),
    (r"\.inp_reinf\.1\.bn\.", r".shortcut.4."),
    (r"\.down\.act\.", r".down.activation."),
    (r"\.(level1|units\.\d)\.conv\.", r".\1.0."),
    (r"\.(level1|units\.\d)\.bn\.", r".\1.1."),
    (r"\.(level1|units\.\d)\.act\.", r".\1.2."),
    (r"\.stages\.", r".branches."),
    (r"\.projection_layer\.cbr\.", r".project."),
    (r"\.merge_layer\.0\.br\.", r".norm_act."),
    (r"\.merge_layer\.2\.cbr\.", r".merge."),
    (r"\.merge_layer\.3\.", r".expand."),
    (r"\.br\.br\.", r".last."),
    (r"\.wt_layer\.1\.", r".gate."),
    (r"\.expansion_layer\.cbr\.", r".convolution."),
)


def is_published(names: Mapping[str, object]) -> bool:
    """Whether a state dict has the authors' names."""
    return any(name.endswith("level1.conv.weight") for name in names)


def our_name(published: str) -> str:
    """This library's name of a published entry; that of a branch ends in its block: ``branch_weight[2]``.

    Example:
        >>> our_name("base_net.level3.0.spp_dw.2.conv.weight")
        'backbone.level3.units.0.branch_weight[2]'
        >>> our_name("bu_dec_l4.merge_layer.3.bias")
        'pyramids.3.expand.bias'
    """
    name = published
    for block in (_MODELS, _BACKBONE, _PARTS):
        name = next((re.sub(rule, new, name) for rule, new in block if re.search(rule, name)), name)
    return name


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of this library's model that a published one describes; unknown names stay as they are."""
    ours: dict[str, Tensor] = {}
    branches: dict[str, dict[int, Tensor]] = {}
    for published, tensor in state.items():
        name, _, block = our_name(published).partition("[")
        if block:
            branches.setdefault(name, {})[int(block.rstrip("]"))] = tensor
        else:
            ours[name] = tensor
    return ours | {name: torch.cat([blocks[b] for b in sorted(blocks)]) for name, blocks in branches.items()}
