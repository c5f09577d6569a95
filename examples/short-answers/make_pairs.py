"""Makes pairs for a control word: a question that asks for a short answer, with the result alone as the chosen answer and the whole
solution as the rejected one.

    python make_pairs.py GSM8K.jsonl OUT.jsonl [FROM] [COUNT]

GSM8K.jsonl has a `question` and an `answer` a line, as https://github.com/openai/grade-school-math does.
"""

import json
import re
import sys


def pair(row):
    solution, _, result = row["answer"].partition("#### ")
    solution = re.sub(r"<<.*?>>", "", solution).strip()
    result = result.strip()
    return {
        "prompt": [{"role": "user", "content": f"{row['question']}\nGive me a <short> answer."}],
        "chosen": [{"role": "assistant", "content": f"{result}."}],
        "rejected": [{"role": "assistant", "content": f"{solution}\nThe answer is {result}."}],
    }


def main():
    source, out, *numbers = sys.argv[1:]
    first, count = [int(n) for n in numbers] + [0, 400][len(numbers) :]
    with open(source) as lines:
        rows = [json.loads(line) for line in lines][first : first + count]
    with open(out, "w") as file:
        for row in rows:
            file.write(json.dumps(pair(row)) + "\n")


if __name__ == "__main__":
    main()
