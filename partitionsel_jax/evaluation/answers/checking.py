"""Whether an output answers its question."""

from partitionsel_jax.evaluation.answers.comparison import same_answer
from partitionsel_jax.evaluation.answers.equivalence import require_math_verify, time_limit
from partitionsel_jax.evaluation.answers.extraction import given_answer, reference_answer
from partitionsel_jax.evaluation.answers.kinds import kind_of
from partitionsel_jax.evaluation.answers.tidying import tidy


def is_correct(output: str, reference: str, benchmark: str = "gsm8k") -> bool:
    """Whether the final answer of an output is that of the reference.

    No text makes it raise, and no text is executed. What is not surely right counts as wrong. Every
    rule is in docs/answers.md; in short:

    * no answer, two answers ("5 or 6"), a bound or a denial ("more than 5", "not 5"), and an
      equation left unsolved ("2x = 10" for 5) are wrong;
    * a value that is not worked out ("3 + 4" for 7, "2^{10}" for 1024) is right for math and
      metamathqa, as for the evaluators published for them; elsewhere the protocol reads one number;
    * numbers are exact: `quantities.same_quantity` has the rules for percentages, units and the few
      references that are rounded;
    * tuples and intervals match in order and by their brackets, sets and bare lists in any order,
      but for simuleq and, from three parts on, deepmind;
    * multiple choice counts letters only;
    * expressions match by value for math and metamathqa, read by math-verify and compared exactly
      within 5 seconds, where a product that the reference leaves factored must be factored as far;
      for deepmind, as its exact-match score has it, by their form up to the order of terms and
      factors.

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
    with time_limit():
        return same_answer(tidy(expected), tidy(given), kind)
