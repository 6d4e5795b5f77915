"""The errors of the offline half, one tree. The command ends with one line and exit code 2.

CompressError
├── RecipeError       a recipe that cannot be read or that contradicts itself
├── CheckpointError   weights that cannot be loaded, or a run made by another recipe
├── DataError         pictures that are missing, or labels that do not fit
├── TrainingError     a loss that is no longer a number
├── SparsityError     a weight that breaks its pattern
├── ExportError       a network that cannot be exported faithfully
└── PlanError         a repository or plan that cannot be written
    └── PublishError  a bundle that a repository cannot take
"""


class CompressError(Exception):
    """Something the person who runs a command can put right."""


class RecipeError(CompressError):
    """A recipe cannot be read, has unknown keys, or contradicts itself."""


class CheckpointError(CompressError):
    """Weights do not fit the network, or a run was started by another recipe."""


class DataError(CompressError):
    """Pictures are missing, or folders do not name classes of the label set."""


class TrainingError(CompressError):
    """Training diverged."""


class SparsityError(CompressError):
    """A weight does not hold the pattern that its layer was given."""


class ExportError(CompressError):
    """An exported graph breaks its mask, or disagrees with the network it came from."""


class PlanError(CompressError):
    """A plan or a repository cannot be written."""


class PublishError(PlanError):
    """A bundle is incomplete, contradicts its card, or cannot be put into a repository."""
