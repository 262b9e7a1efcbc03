"""Functions of the user's that would not give the same values wherever they run."""

from typing import Any

from beam_jobs.errors import SpecError

_UNFIT_OPS = {
    "AllCandidateSampler", "EagerPyFunc", "FixedUnigramCandidateSampler",
    "LearnedUnigramCandidateSampler", "LogUniformCandidateSampler", "Multinomial",
    "NonDeterministicInts", "ParameterizedTruncatedNormal", "PyFunc", "PyFuncStateless",
    "RandomCrop", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle",
    "RandomStandardNormal", "RandomUniform", "RandomUniformInt", "RngReadAndSkip", "RngSkip",
    "SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2", "StatefulRandomBinomial",
    "StatefulStandardNormal", "StatefulStandardNormalV2", "StatefulTruncatedNormal",
    "StatefulUniform", "StatefulUniformFullInt", "StatefulUniformInt",
    "ThreadUnsafeUnigramCandidateSampler", "Timestamp", "TruncatedNormal",
    "UniformCandidateSampler",
}  # fmt: skip


def refuse(graph: Any, what: str) -> None:
    """Raises a SpecError if an op draws by chance, looks at the clock or calls back into Python.

    Args:
      graph: The GraphDef of a traced function.
      what: The function, for the message.
    """
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    wrong = sorted({node.op for body in bodies for node in body} & _UNFIT_OPS)
    if wrong:
        raise SpecError(
            f"{what} must give the same values wherever it runs, but uses {wrong[0]}. Make it of "
            "TensorFlow ops without chance; random changes are the trainer's."
        )
