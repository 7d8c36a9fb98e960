"""What the fields of a distillation may be, in a person's words."""

from __future__ import annotations

from widgets.methods import Words

SHARES = {0.125: "⅛", 0.25: "¼", 0.5: "half", 0.75: "¾", 1.0: "all"}
WEIGHTS = tuple(round(0.1 * k, 1) for k in range(11))
FEATURE_WEIGHTS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
EPOCHS = (1, 2, 4, 8, 16, 32)
PATIENCE = {0: "to the end", 3: "after 3 evaluations", 5: "after 5", 10: "after 10", 20: "after 20"}
"""When a training that gets no better is ended."""
SOUPS = {1: "one student", 2: "mean of 2", 3: "mean of 3", 5: "mean of 5"}
VIEWS = {0: "new in every epoch", 1: "1 version", 2: "2 versions", 4: "4 versions", 8: "8 versions", 16: "16 versions"}
SEED_TEXTS = {1: "1 seed", 3: "3 seeds", 5: "5 seeds"}

FORMS = {
    "width": Words("narrower", "Every hidden layer with a share of the model’s channels."),
    "depth": Words("fewer blocks", "Blocks of the model left out, those first that change least."),
    "separable": Words("depthwise separable", "Each convolution as one over space and one over channels."),
    "low_rank": Words("low rank", "Each weight matrix as a product of two thin ones."),
}
"""Forms of a student; a bench may have students of its own beside them."""
OWN = "One of the bench’s own students."
SHARE_OF = {"width": ("width", "Width"), "depth": ("depth", "Blocks kept"), "low_rank": ("rank", "Rank")}
"""Of a form, the field of its share and what it is called."""
INITIALS = {"random": "new, by the seed", "model": "the model’s own"}
AUGMENTATIONS = {
    "none": Words("none", "Images as they are."),
    "crop": Words("moved", "Moved by up to a fourteenth of their side."),
    "flip": Words("mirrored", "Mirrored left to right at random."),
    "crop_flip": Words("moved and mirrored", "Moved a little, and mirrored left to right at random."),
}
LOSSES = {
    "kd": Words("Hinton’s (KL)", "The student’s probabilities come close to the teacher’s, softened ones."),
    "dkd": Words("decoupled (DKD)", "How sure of the class and how the others rank, apart; the ranking counts more."),
    "dist": Words("correlation (DIST)", "Classes of an example and examples of a class correlate as the teacher’s do."),
    "standardised": Words("standardised logits", "As Hinton’s, after each example’s logits got mean 0 and spread 1."),
    "cosine": Words("cosine", "The outputs point the same way, however long they are. No temperature."),
    "mse": Words("squared error", "The outputs themselves come close to the teacher’s. No temperature."),
}
"""Losses of outputs."""
FEATURES = {
    "": Words("not taught", "Only the outputs learn from the teacher."),
    "hints": Words("hints (FitNets)", "A layer in the middle learns to say what the teacher’s says there."),
    "attention": Words("attention transfer", "Layers learn at which positions the teacher’s respond."),
    "distance": Words("relations: distance", "Examples lie as far apart in a hidden layer as in the teacher’s."),
    "angle": Words("relations: angle", "Three examples form the same angle in a hidden layer as in the teacher’s."),
}
"""Losses of hidden layers, which come on top."""
WITHOUT_TEMPERATURE = ("cosine", "mse")
