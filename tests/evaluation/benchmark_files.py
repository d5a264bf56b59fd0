"""Writers of hand-made benchmark files in exactly the published formats, with every field."""

import csv
import io
import json

GSM8K = [
    {
        "question": "Ann has 3 boxes of 6 eggs. How many eggs does she have?",
        "answer": "She has 3*6=<<3*6=18>>18 eggs.\n#### 18",
    },
    {
        "question": "A pen costs $2. How much do 500 pens cost?",
        "answer": "500 pens cost 500*2=$<<500*2=1000>>1000.\n#### 1,000",
    },
    {
        "question": "Bo runs 4 miles a day. How far in 5 days?",
        "answer": "4*5=<<4*5=20>>20\n#### 20",
    },
]
MATH = [
    {
        "problem": "Compute $\\dbinom{5}{1}$.",
        "level": "Level 1",
        "type": "Counting & Probability",
        "solution": "$\\dbinom{5}{1}=\\dfrac{5!}{1!4!}=\\boxed{5}.$",
    },
    {
        "problem": "What is $\\frac12 \\cdot \\frac12$?",
        "level": "Level 2",
        "type": "Prealgebra",
        "solution": "It is $\\boxed{\\frac{1}{4}}$.",
    },
]
MATH_500 = [
    {
        "problem": "Convert the point $(0,3)$ to polar coordinates.",
        "solution": "We have $r = 3$, so $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    }
]
NUMGLUE = [
    {
        "question": "A hen lays 2 eggs a day. How many in a dozen days?",
        "answer": 24,
        "type": "Type_1",
    },
    {"question": "What is the mass of 2 moles of water in g?", "answer": "36", "type": "Type_2"},
    {
        "question": "A rug is rougher than ice. Where does a toy car roll further?",
        "Option1": "on the rug",
        "Option2": "on the ice",
        "answer": "Option 2",
        "type": "Type_3",
    },
    {
        "question": "Tom had 8 apples and ate 3. He has _____ apples left.",
        "answer": "5",
        "type": "Type_4",
    },
    {
        "passage": "The Bears won 21-14 in 1999.",
        "question": "By how many points did they win?",
        "answer": {"number": "7", "date": {"day": "", "month": "", "year": ""}, "spans": []},
        "type": "Type_5",
    },
    {
        "passage": "Smith and Jones scored.",
        "question": "Which two players scored?",
        "answer": {
            "number": "",
            "date": {"day": "", "month": "", "year": ""},
            "spans": ["Smith", "Jones"],
        },
        "type": "Type_6",
    },
    {
        "statement1": "There are 8 boys in the room.",
        "statement2": "There are more than 5 boys in the room.",
        "options": "Entailment or contradiction or neutral?",
        "answer": "Entailment",
        "type": "Type_7",
    },
    {
        "passage": "The war ended on 3 May 1808.",
        "question": "When did it end?",
        "answer": {
            "number": "",
            "date": {"day": "3", "month": "May", "year": "1808"},
            "spans": [],
        },
        "type": "Type_6",
    },
]
SVAMP = [
    {
        "ID": "chal-1",
        "Body": "Each pack costs 76 dollars. If there is a discount of 25 dollars on each pack",
        "Question": "How much do you have to pay to buy each pack?",
        "Equation": "( 76.0 - 25.0 )",
        "Answer": 51.0,
        "Type": "Subtraction",
    },
    {
        "ID": "chal-2",
        "Body": "Dan had $ 3 left with him after he bought a candy bar. ",
        "Question": "If he had $ 4 at the start, how much did the candy bar cost?",
        "Equation": "( 4.0 - 3.0 )",
        "Answer": 1.0,
        "Type": "Subtraction",
    },
]
SIMULEQ = [
    {
        "iIndex": 1004,
        "sQuestion": "The sum of two numbers is 8 and their difference is 2. What are they?",
        "lEquations": ["x+y=8", "x-y=2"],
        "lSolutions": [5.0, 3.0],
    }
]
DEEPMIND = {
    "algebra__linear_1d": ["Solve 24 = 1601*c - 1605*c for c.", "-6", "Solve 2*x = 8 for x.", "4"],
    "numbers__is_prime": ["Is 7 prime?", "True"],
}
AQUA = [
    {
        "question": "A car goes 60 km in 2 hours. What is its speed in km/h?",
        "options": ["A)20", "B)25", "C)30", "D)35", "E)40"],
        "rationale": "60/2 = 30.\nAnswer is C.",
        "correct": "C",
    },
    {
        "question": "What is half of 8?",
        "options": ["A)4", "B)2", "C)3", "D)5", "E)16"],
        "rationale": "8/2 = 4",
        "correct": "A",
    },
]
SAT_MATH = [
    {
        "passage": None,
        "question": "If $x+2=5$, what is $x$?",
        "options": ["(A)$1$", "(B)$2$", "(C)$3$", "(D)$4$"],
        "label": "C",
        "answer": None,
        "other": {"solution": "Subtract $2$."},
    },
    {
        "passage": "A line has slope 2.",
        "question": "Which is parallel to it?",
        "options": ["(A)y = 2x", "(B)y = x", "(C)y = 3x", "(D)y = -x"],
        "label": "A",
        "answer": None,
        "other": None,
    },
]
MMLU_SUBJECTS = (
    "abstract_algebra",
    "college_mathematics",
    "elementary_mathematics",
    "high_school_mathematics",
    "high_school_statistics",
)
MOLECULES = [
    {
        "instruction": "Given the reactants, predict the product.",
        "input": "[C][C][O].[C][C][=Branch1][C][=O][O]",
        "output": "[C][C][O][C][Branch1][C][C][=O]",
        "metadata": json.dumps({"task": "forward reaction prediction", "split": "test"}),
    },
    {
        "instruction": "Predict the product of these.",
        "input": "[C][O]",
        "output": "[C][=O]",
        "metadata": json.dumps({"task": "forward reaction prediction", "split": "train"}),
    },
    {
        "instruction": "Which product forms?",
        "input": "[C][C][Br]",
        "output": "[C][C][O]",
        "metadata": json.dumps({"task": "forward reaction prediction", "split": "test"}),
    },
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write(root, name):
    """Writes a benchmark's folder, with what there is of training files, and returns it."""
    folder = root / name
    WRITERS[name](folder)
    return folder


def _gsm8k(folder):
    put(folder / "test.jsonl", lines(GSM8K[:2]))
    # Training files may hold a question of the test again.
    put(folder / "train.jsonl", lines(GSM8K))


def _math(folder):
    places = ("counting_and_probability/1", "prealgebra/1")
    for split in ("test", "train"):
        for place, row in zip(places, MATH, strict=True):
            put(folder / split / f"{place}.json", json.dumps(row, indent=4))


def _numglue(folder):
    for split in ("test", "train", "dev"):
        put(folder / f"NumGLUE_{split}.json", lines(NUMGLUE))


def _svamp(folder):
    put(folder / "SVAMP.json", json.dumps(SVAMP, indent=2))


def _simuleq(folder):
    put(folder / "simuleq.json", json.dumps(SIMULEQ))


def _deepmind(folder):
    for split in ("interpolate", "extrapolate", "train-easy", "train-medium", "train-hard"):
        for module, rows in DEEPMIND.items():
            put(folder / split / f"{module}.txt", "\n".join(rows) + "\n")


def _aqua(folder):
    for split in ("test", "train", "dev"):
        put(folder / f"{split}.json", lines(AQUA))


def _sat_math(folder):
    put(folder / "sat-math.jsonl", lines(SAT_MATH))


def _mmlu(folder):
    for subject in (*MMLU_SUBJECTS, "anatomy"):
        for split, count in (("test", 3), ("dev", 5)):
            text = io.StringIO(newline="")
            for number in range(count):
                # Questions hold commas, quotation marks and ends of lines.
                question = f'What, in {subject} ({split}), is\n"{number} + 1"?'
                options = [number, number + 1, number + 2, number + 3]
                csv.writer(text).writerow([question, *options, "B"])
            put(folder / split / f"{subject}_{split}.csv", text.getvalue())


def _molecules(file):
    return lambda folder: put(folder / file, json.dumps(MOLECULES, indent=2))


WRITERS = {
    "gsm8k": _gsm8k,
    "math": _math,
    "numglue": _numglue,
    "svamp": _svamp,
    "simuleq": _simuleq,
    "deepmind": _deepmind,
    "aqua": _aqua,
    "sat_math": _sat_math,
    "mmlu_math": _mmlu,
    "mol_design": _molecules("description_guided_molecule_design.json"),
    "mol_forward": _molecules("forward_reaction_prediction.json"),
    "mol_reagent": _molecules("reagent_prediction.json"),
    "mol_retrosynthesis": _molecules("retrosynthesis.json"),
}
