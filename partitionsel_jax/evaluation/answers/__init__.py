"""Answer checking: explicit rules first, math-verify where they leave expressions to compare.

evaluation.is_correct("She sells 9 eggs at $2.\\n#### 18", "16 - 3 - 4 = 9, 9 * 2 = 18\\n#### 18")
evaluation.is_correct(r"So \\boxed{\\tfrac12}", "0.5", benchmark="math")

docs/answers.md lists what counts as right, benchmark by benchmark.
"""

from partitionsel_jax.evaluation.answers.comparison import is_correct
from partitionsel_jax.evaluation.answers.extraction import final_answer_of
from partitionsel_jax.evaluation.answers.kinds import ANSWER_KINDS, AnswerKind

__all__ = ["ANSWER_KINDS", "AnswerKind", "final_answer_of", "is_correct"]
