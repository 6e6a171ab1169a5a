"""The panels of every run; one whose columns a run has not recorded is left out."""

from __future__ import annotations

from typing import Any

DEFAULT_PANELS: list[dict[str, Any]] = [
    {
        "kind": "curves",
        "title": "Accuracy",
        "caption": (
            "The share of examples that the network gets right. Look for the gap between the "
            "dotted lines (examples that it trained on) and the solid ones (examples that it has "
            "never seen): the bars on top and the shading under them are the delay, from knowing "
            "the training examples by heart until generalising."
        ),
        "columns": {"test_accuracy": "test examples", "train_accuracy": "training examples"},
        "y_range": [0, 1.02],
        "percent": True,
        "spans": "delay",
        "wide": True,
    },
    {
        "kind": "curves",
        "title": "Loss",
        "caption": (
            "What training lowers. Look at the solid lines during the shaded delay: the loss on "
            "test examples stays high, or even rises, long after the training loss has collapsed."
        ),
        "columns": {"test_loss": "test examples", "train_loss": "training examples"},
        "y_scale": "log",
        "spans": "delay",
        "wide": True,
    },
    {
        "kind": "curves",
        "title": "Centroid alignment",
        "caption": (
            "The cosine between an input and its centroid, the pattern that the network responds "
            "to around that input. Look for whether the line rises as the network generalises: 0 "
            "is no better than noise, 1 would mean that it responds to the input itself."
        ),
        "columns": {"centroid_alignment": "mean over the probe points"},
        "band": "range",
        "y_title": "cosine",
    },
    {
        "kind": "curves",
        "title": "Row alignment",
        "caption": (
            "For each input the largest cosine, up to sign, of a row of the Jacobian with it. Look "
            "for a rise. Where the rows of the classes point along the input in both directions, "
            "they cancel in the centroid and show only here."
        ),
        "columns": {"row_alignment": "mean over the probe points"},
        "band": "range",
        "y_title": "cosine",
    },
    {
        "kind": "curves",
        "title": "Centroid norm",
        "caption": (
            "The length of the centroids. Look for a fall: with shorter centroids the sum of the "
            "outputs changes less when the input does."
        ),
        "columns": {"centroid_norm": "mean over the probe points"},
        "band": "range",
        "y_title": "norm",
    },
    {
        "kind": "curves",
        "title": "Jacobian norm",
        "caption": (
            "How strongly the outputs react to small changes of an input. Look for how early it "
            "falls: this is what GrokAlign keeps small."
        ),
        "columns": {"jacobian_norm": "mean over the probe points"},
        "band": "range",
        "y_title": "Frobenius norm",
    },
    {
        "kind": "curves",
        "title": "First principal component of the Jacobian (PC1)",
        "caption": (
            "The share of the Jacobian that its strongest direction makes up. Look for a rise "
            "towards 1, where all outputs read the input along that one direction."
        ),
        "columns": {"jacobian_pc1": "mean over the probe points"},
        "band": "range",
        "y_range": [0, 1.02],
        "y_title": "share",
    },
    {
        "kind": "curves",
        "title": "Weight norm",
        "caption": (
            "The length of all parameters together. Look for whether generalising goes with "
            "smaller weights, the older explanation of the delay."
        ),
        "columns": {"weight_norm": "all parameters"},
        "y_title": "norm",
    },
    {
        "kind": "curves",
        "title": "Distance of the tangent kernel",
        "caption": (
            "How far the kernel that says how one image's learning affects another's has turned. "
            "A solid line that stays near 0 is a network that learns like a linear model; look "
            "for whether it leaves 0 before or as test accuracy rises."
        ),
        "columns": {
            "ntk_distance_init": "from the kernel before training",
            "ntk_distance_previous": "from the kernel of the look before",
        },
        "y_title": "one minus cosine",
        "wide": True,
    },
    {
        "kind": "heatmap",
        "title": "Distance between the tangent kernels of two steps",
        "caption": (
            "Dark blocks along the diagonal are stretches of training in which the kernel keeps "
            "its direction; look for where one block gives way to the next."
        ),
        "arrays": "ntk_distance",
        "value": "one minus cosine",
    },
    {
        "kind": "pictures",
        "title": "What the network responds to",
        "caption": (
            "Each image and, under it, its centroid at the step of the slider. Move it from left "
            "to right and look for whether noise turns into the shape of the image: that is "
            "alignment. Each picture is scaled to its own largest value; in pictures of one "
            "color, red stands for negative values."
        ),
    },
]
