"""Makes the rows of the calculator example: short word problems whose answers mark every calculation.

    python make_calc.py

writes train.jsonl and heldout.jsonl beside this script, the same ones every time.
"""
import json
import random
import re
from pathlib import Path

TRAIN_ROWS = 340
HELDOUT_ROWS = 60
SEED = 2024

# name, pronoun, possessive
PEOPLE = [
    ("Tom", "he", "his"), ("Ada", "she", "her"), ("Omar", "he", "his"), ("Lena", "she", "her"), ("Mei", "she", "her"),
    ("Jonas", "he", "his"), ("Priya", "she", "her"), ("Carlos", "he", "his"), ("Ayşe", "she", "her"), ("Kofi", "he", "his"),
    ("Sara", "she", "her"), ("Ivan", "he", "his"), ("Nadia", "she", "her"), ("Ben", "he", "his"), ("Yuki", "she", "her"),
    ("Paul", "he", "his"), ("Rosa", "she", "her"), ("Emre", "he", "his"), ("Grace", "she", "her"), ("Noah", "he", "his"),
]  # fmt: skip

THINGS = [
    "apples", "marbles", "stickers", "pencils", "shells", "stamps", "cookies", "balloons", "coins", "buttons", "beads",
    "postcards", "oranges", "badges",
]  # fmt: skip

# A question, its answer, and the range of each number. `[x=a+b]` in an answer is a calculation: it shows as
# `<calc>12+7=19</calc> 19`, and later calculations may use x. The last one is the answer.
TEMPLATES = [
    # one step
    (
        "{name} has {a} {things} and buys {b} more. How many {things} does {he} have?",
        "{name} has [x=a+b] {things}.",
        dict(a=(4, 90), b=(3, 60)),
    ),
    (
        "{name} had {a} {things} and gave {b} of them to {other}. How many {things} does {name} have left?",
        "{name} has [x=a-b] {things} left.",
        dict(a=(12, 99), b=(3, 60)),
    ),
    (
        "A box holds {a} {things}. How many {things} are there in {b} full boxes?",
        "There are [x=a*b] {things}.",
        dict(a=(6, 40), b=(2, 12)),
    ),
    (
        "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
        "Each friend gets [x=a/b] {things}.",
        dict(a=(12, 96), b=(2, 9)),
    ),
    (
        "{name} cycles {a} kilometres in the morning and {b} kilometres in the evening. How far does {he} cycle that day?",
        "{He} cycles [x=a+b] kilometres.",
        dict(a=(3, 45), b=(3, 45)),
    ),
    (
        "A bus has {a} seats, and {b} of them are taken. How many seats are free?",
        "There are [x=a-b] free seats.",
        dict(a=(30, 80), b=(5, 70)),
    ),
    (
        "One ticket costs {a} dollars. How much do {b} tickets cost?",
        "They cost [x=a*b] dollars.",
        dict(a=(4, 35), b=(2, 15)),
    ),
    (
        "A teacher puts {a} pupils into teams of {b}. How many teams are there?",
        "There are [x=a/b] teams.",
        dict(a=(12, 90), b=(3, 9)),
    ),
    (
        "{name} read {a} pages on Monday and {b} pages on Tuesday. How many pages did {he} read on the two days?",
        "{He} read [x=a+b] pages.",
        dict(a=(11, 85), b=(11, 85)),
    ),
    (
        "A rope is {a} metres long. {name} cuts off {b} metres. How long is the rest?",
        "The rest is [x=a-b] metres long.",
        dict(a=(10, 90), b=(2, 50)),
    ),
    (
        "{name} earns {a} dollars an hour. How much does {he} earn in {b} hours?",
        "{name} earns [x=a*b] dollars.",
        dict(a=(9, 30), b=(3, 12)),
    ),
    (
        "A train covers {a} kilometres in {b} hours at a steady speed. How far does it go in one hour?",
        "It goes [x=a/b] kilometres in an hour.",
        dict(a=(120, 600), b=(2, 8)),
    ),
    (
        "There are {a} rows of {b} chairs in a hall. How many people can sit down?",
        "[x=a*b] people can sit down.",
        dict(a=(5, 25), b=(6, 24)),
    ),
    # two steps
    (
        "{name} buys {a} packs of {b} {things} and gives {c} {things} away. How many {things} are left?",
        "{name} buys [x=a*b] {things}. After that [y=x-c] {things} are left.",
        dict(a=(3, 9), b=(4, 12), c=(3, 40)),
    ),
    (
        "{name} has {a} {things}, finds {b} more and then loses {c}. How many {things} does {he} have in the end?",
        "First {he} has [x=a+b] {things}. In the end {he} has [y=x-c] {things}.",
        dict(a=(8, 60), b=(4, 40), c=(3, 30)),
    ),
    (
        "{name} picks {a} pears and {other} picks {b}. They share all of them equally. How many pears does each get?",
        "Together they have [x=a+b] pears. Each gets [y=x/2] pears.",
        dict(a=(7, 60), b=(7, 60)),
    ),
    (
        "A notebook costs {a} dollars and a pen costs {b} dollars. What do {c} notebooks and {c} pens cost?",
        "One of each costs [x=a+b] dollars. In all they cost [y=x*c] dollars.",
        dict(a=(3, 15), b=(2, 9), c=(2, 12)),
    ),
    (
        "{name} has {a} dollars and buys {b} sandwiches for {c} dollars each. How much money is left?",
        "The sandwiches cost [x=b*c] dollars. There are [y=a-x] dollars left.",
        dict(a=(30, 100), b=(2, 8), c=(3, 11)),
    ),
    (
        "A farm has {a} hens, and each lays {b} eggs a week. The eggs go into boxes of {c}. How many boxes are filled in a week?",
        "The hens lay [x=a*b] eggs. They fill [y=x/c] boxes.",
        dict(a=(8, 48), b=(4, 7), c=(6, 12)),
    ),
    (
        "{name} saves {a} dollars a week for {b} weeks, and then {his} aunt gives {him} {c} dollars. How much does {he} have?",
        "{name} saves [x=a*b] dollars. With the gift {he} has [y=x+c] dollars.",
        dict(a=(5, 25), b=(3, 12), c=(10, 60)),
    ),
    (
        "A baker makes {a} loaves in the morning and {b} in the afternoon, and sells {c} of them. How many loaves are left?",
        "The baker makes [x=a+b] loaves. [y=x-c] loaves are left.",
        dict(a=(20, 90), b=(15, 70), c=(20, 120)),
    ),
    (
        "{a} children and {b} adults go on a trip in vans that take {c} people each. How many full vans do they need?",
        "There are [x=a+b] people. They need [y=x/c] vans.",
        dict(a=(12, 60), b=(4, 24), c=(6, 9)),
    ),
    (
        "A book has {b} pages. {name} has read {c} of them and now reads {a} pages a day. How many more days does {he} need?",
        "There are [x=b-c] pages to go. {He} needs [y=x/a] more days.",
        dict(a=(6, 25), b=(90, 300), c=(15, 80)),
    ),
    (
        "A red ribbon is {a} centimetres long. A blue one is {b} centimetres shorter, and a green one is {c} times as long as "
        "the blue one. How long is the green ribbon?",
        "The blue ribbon is [x=a-b] centimetres long. The green one is [y=x*c] centimetres long.",
        dict(a=(20, 70), b=(4, 18), c=(2, 6)),
    ),
    (
        "A tank holds {a} litres of water. {name} fills {b} cans of {c} litres from it. How many litres stay in the tank?",
        "The cans take [x=b*c] litres. [y=a-x] litres stay in the tank.",
        dict(a=(60, 250), b=(3, 9), c=(4, 15)),
    ),
    (
        "A stall sold {a} {things} on Saturday and {b} times as many on Sunday. How many {things} did it sell on both days?",
        "On Sunday it sold [x=a*b] {things}. On both days it sold [y=a+x] {things}.",
        dict(a=(8, 60), b=(2, 5)),
    ),
    (
        "{name} deals {a} cards equally to {b} players, and then each player draws {c} more. How many cards does each hold?",
        "Each player is dealt [x=a/b] cards. Each then holds [y=x+c] cards.",
        dict(a=(20, 72), b=(2, 6), c=(2, 5)),
    ),
    (
        "A coat costs {a} dollars, but {b} dollars less in the sale. How much do {c} coats cost in the sale?",
        "One coat costs [x=a-b] dollars in the sale. The coats cost [y=x*c] dollars.",
        dict(a=(45, 120), b=(5, 35), c=(2, 5)),
    ),
    (
        "{b} friends split a taxi fare of {a} dollars equally, and each also pays {c} dollars for lunch. What does each pay?",
        "The taxi costs each [x=a/b] dollars. Each pays [y=x+c] dollars.",
        dict(a=(24, 96), b=(2, 6), c=(6, 25)),
    ),
    (
        "A machine makes {a} parts in {b} hours. How many parts does it make in {c} hours at the same pace?",
        "It makes [x=a/b] parts an hour. In the given time it makes [y=x*c] parts.",
        dict(a=(40, 240), b=(2, 8), c=(3, 12)),
    ),
]  # fmt: skip

CALCULATION = re.compile(r"\[(\w)=(\w)([-+*/])(\w)\]")
SHOWN = re.compile(r"<calc>(\d+)([-+*/])(\d+)=(\d+)</calc> (\d+)")


def calculate(left, sign, right):
    """The result, or None where it is no whole number above 1 (a plural noun follows it)."""
    if sign == "/":
        result, rest = divmod(left, right)
        return result if rest == 0 and result > 1 else None
    result = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return result if result > 1 else None


def solve(answer, numbers):
    """The answer's text with its calculations carried out, and the last result; None where one does not come out even."""
    values = dict(numbers)
    shown, end = "", 0
    for match in CALCULATION.finditer(answer):
        target, left, sign, right = match.groups()
        left, right = (values[v] if v in values else int(v) for v in (left, right))
        result = calculate(left, sign, right)
        if result is None:
            return None
        values[target] = result
        shown += answer[end : match.start()] + f"<calc>{left}{sign}{right}={result}</calc> {result}"
        end = match.end()
    return shown + answer[end:], result


def make_row(rng, template, used):
    """A row of this template with numbers that it has not had yet."""
    question, answer, ranges = template
    while True:
        numbers = {key: rng.randint(*bounds) for key, bounds in ranges.items()}
        solved = solve(answer, numbers)
        key = (question, *numbers.values())
        if solved and key not in used:
            break
    used.add(key)
    (name, he, his), (other, _, _) = rng.sample(PEOPLE, 2)
    words = dict(
        name=name, other=other, he=he, He=he.capitalize(), his=his, him="him" if he == "he" else "her",
        things=rng.choice(THINGS),
    )  # fmt: skip
    shown, result = solved
    return {
        "prompt": "Question: " + question.format(**words, **numbers) + "\nAnswer:",
        "completion": " " + shown.format(**words) + f"\n<answer> {result}",
    }


def check(rows):
    """Reads the arithmetic back from the text."""
    for row in rows:
        text, answer = row["completion"].split("\n<answer> ")
        steps = SHOWN.findall(text)
        assert steps and text.count("<calc>") == text.count("</calc>") == len(steps), row
        for left, sign, right, result, repeated in steps:
            assert calculate(int(left), sign, int(right)) == int(result) == int(repeated), row
        assert answer == steps[-1][3], row
        assert not re.search(r"[{}\[\]]", row["prompt"] + row["completion"]), row


def main():
    rng = random.Random(SEED)
    used = set()
    rows = [make_row(rng, TEMPLATES[i % len(TEMPLATES)], used) for i in range(TRAIN_ROWS + HELDOUT_ROWS)]
    rng.shuffle(rows)
    check(rows)
    train, heldout = rows[:TRAIN_ROWS], rows[TRAIN_ROWS:]
    prompts = {row["prompt"] for row in train}
    assert len(prompts) == TRAIN_ROWS and len({row["prompt"] for row in heldout} - prompts) == HELDOUT_ROWS
    for name, part in (("train.jsonl", train), ("heldout.jsonl", heldout)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
