"""GSM8K as rows of token ids, `{"input_ids", "labels"}`. Run by the peer's interpreter.

`<<`, `>>` and `#### ` become three marker tokens, which are what is trained; the question has no labels. With --examples every row
begins with the same worked examples, which have no labels either, and no marker tokens unless --mark-examples says so.
"""

import argparse
import itertools
import json
import re

from transformers import AutoTokenizer

MARKS = ("<<", ">>", "#### ")


def encoder(tokenizer, markers):
    """A function from text to ids, with the marks as single tokens between separately encoded pieces."""
    ids = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(list(markers))))
    split = re.compile("(" + "|".join(map(re.escape, MARKS)) + ")")

    def plain(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def encode(text):
        pieces = split.split(text)
        return [i for piece in pieces for i in ([ids[piece]] if piece in ids else plain(piece))]

    return encode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder with a tokenizer")
    parser.add_argument("source", help="GSM8K's JSON lines, {question, answer}")
    parser.add_argument("out")
    parser.add_argument("--markers", nargs=3, required=True, help="tokens for " + " ".join(MARKS))
    parser.add_argument("--bos", action="store_true", help="begin every row with the model's first token")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--examples", type=int, default=0, help="worked examples in front of every row")
    parser.add_argument("--first-example", type=int, default=0, help="the line of the first, from 0; they must not be among the rows")
    parser.add_argument("--mark-examples", action="store_true", help="the marker tokens in the examples too")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    encode = encoder(tokenizer, args.markers)

    def plain(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def asked(row):
        return plain(f"Question: {row['question']}\nAnswer: ")

    if args.examples and args.first_example < args.rows:
        parser.error(f"the examples begin at line {args.first_example}, among the {args.rows} rows")
    first = [tokenizer.bos_token_id] if args.bos else []
    with open(args.source) as source:
        for line in itertools.islice(source, args.first_example, args.first_example + args.examples):
            row = json.loads(line)
            first += asked(row) + (encode if args.mark_examples else plain)(row["answer"]) + plain("\n\n")
    with open(args.source) as source, open(args.out, "w") as out:
        for line in itertools.islice(source, args.rows):
            row = json.loads(line)
            question = first + asked(row)
            answer = encode(row["answer"]) + [tokenizer.eos_token_id]
            labels = [-100] * len(question) + answer
            out.write(json.dumps({"input_ids": question + answer, "labels": labels}) + "\n")


if __name__ == "__main__":
    main()
