"""Whether an output answers its question."""

from partitionsel_jax.evaluation.answers.comparison import same_answer
from partitionsel_jax.evaluation.answers.equivalence import require_math_verify
from partitionsel_jax.evaluation.answers.extraction import given_answer, reference_answer
from partitionsel_jax.evaluation.answers.kinds import kind_of
from partitionsel_jax.evaluation.answers.tidying import tidy


def is_correct(output: str, reference: str, benchmark: str = "gsm8k") -> bool:
    """Whether the final answer of an output is that of the reference.

    No text makes it raise, and no text is executed. What is not surely right counts as wrong:

    * no answer, two answers ("5 or 6"), a bound or a denial ("more than 5", "not 5"), an answer
      that is still to be computed ("3 + 4" for 7, "2x = 10" for 5);
    * numbers are exact: `quantities.same_quantity` has the rules for percentages, units and the few
      references that are rounded;
    * tuples and intervals match in order and by their brackets, sets and bare lists in any order,
      but for simuleq and, from three parts on, deepmind;
    * multiple choice counts letters only;
    * expressions match by value for math and metamathqa, found by math-verify within 5 seconds,
      where a product that the reference leaves factored must be factored as far; for deepmind, as
      its exact-match score has it, by their form up to the order of terms and factors.

    Args:
      output: what a model wrote, worked steps included.
      reference: the published answer field, worked steps included where they are published.
      benchmark: a name of `ANSWER_KINDS`.

    Returns:
      True for a right answer.

    Raises:
      ValueError: the benchmark is unknown.
      ImportError: the benchmark has expressions to compare and math-verify is not installed.
      RuntimeError: the process that compares expressions cannot be started on this machine.
    """
    kind = kind_of(benchmark)
    if kind.symbolic:
        require_math_verify()
    expected, given = reference_answer(reference, kind), given_answer(output, kind)
    if kind.letters:
        return bool(expected) and expected == given
    return same_answer(tidy(expected), tidy(given), kind)
