"""The panels of every run; one whose columns a run has not recorded is left out."""

from __future__ import annotations

from typing import Any

DEFAULT_PANELS: list[dict[str, Any]] = [
    {
        "kind": "curves",
        "title": "Accuracy",
        "caption": (
            "Fraction of examples classified correctly: training examples dotted, test examples "
            "solid. Shading and bars mark the delay of generalization, from fitting the training "
            "set to generalizing."
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
            "Training loss dotted, test loss solid. During the shaded delay the test loss stays "
            "high, or rises, long after the training loss has collapsed."
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
            "Cosine between an input and its centroid, the sum of the Jacobian's rows. Near 0 the "
            "centroid is unrelated to the input; at 1 it points along it. Does it rise as test "
            "accuracy rises?"
        ),
        "columns": {"centroid_alignment": "mean over the probe points"},
        "band": "range",
        "y_title": "cosine",
    },
    {
        "kind": "curves",
        "title": "Row alignment",
        "caption": (
            "Maximum absolute cosine of the Jacobian's rows with the input. Rows of different "
            "classes that point along the input with opposite signs cancel in the centroid and "
            "show only here."
        ),
        "columns": {"row_alignment": "mean over the probe points"},
        "band": "range",
        "y_title": "cosine",
    },
    {
        "kind": "curves",
        "title": "Centroid norm",
        "caption": (
            "Norm of the centroids. The smaller it is, the less the sum of the outputs changes "
            "with the input."
        ),
        "columns": {"centroid_norm": "mean over the probe points"},
        "band": "range",
        "y_title": "norm",
    },
    {
        "kind": "curves",
        "title": "Jacobian norm",
        "caption": (
            "How strongly the outputs react to small changes of the input. GrokAlign penalizes "
            "this norm; how early does it fall?"
        ),
        "columns": {"jacobian_norm": "mean over the probe points"},
        "band": "range",
        "y_title": "Frobenius norm",
    },
    {
        "kind": "curves",
        "title": "First principal component of the Jacobian (PC1)",
        "caption": (
            "Share of the largest singular value in the squared norm of the Jacobian. At 1 the "
            "Jacobian has rank one: all outputs depend on the same direction of the input."
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
            "Norm of all parameters. Does generalization go with smaller weights, an earlier "
            "explanation of grokking?"
        ),
        "columns": {"weight_norm": "all parameters"},
        "y_title": "norm",
    },
    {
        "kind": "curves",
        "title": "Distance of the tangent kernel",
        "caption": (
            "Cosine distance of the neural tangent kernel from the kernel before training (solid) "
            "and from that of the previous evaluation (dotted). Near 0 throughout, the network "
            "learns like a linear model (lazy regime); does it leave 0 before or as test accuracy "
            "rises?"
        ),
        "columns": {
            "ntk_distance_init": "from the kernel before training",
            "ntk_distance_previous": "from the kernel of the previous evaluation",
        },
        "y_title": "one minus cosine",
        "wide": True,
    },
    {
        "kind": "heatmap",
        "title": "Distance between the tangent kernels of two steps",
        "caption": (
            "Dark blocks along the diagonal are intervals of training in which the kernel keeps "
            "its direction; their borders are the steps at which it changes."
        ),
        "arrays": "ntk_distance",
        "value": "one minus cosine",
    },
    {
        "kind": "pictures",
        "title": "Centroids of probe points",
        "caption": (
            "Each image and, below it, its centroid at the step of the slider. Alignment is "
            "visible as noise that turns into the image. Each picture is scaled to its largest "
            "absolute value; in pictures of one channel, red is negative."
        ),
    },
]
