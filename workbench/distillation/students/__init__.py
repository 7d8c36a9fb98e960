"""Students: smaller networks that are made from a model, or a user's own."""

from workbench.distillation.students.making import Own, make_student
from workbench.distillation.students.reduced import Reduced, parameters
from workbench.distillation.students.width import scale_width

__all__ = ["Own", "Reduced", "make_student", "parameters", "scale_width"]
