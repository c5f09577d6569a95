"""Compares toktune's chat templates with transformers, template by template, and writes docs/chat-templates.md.

    tools/chat_templates/fetch.sh templates
    cargo build --release --package toktune --example render_chat
    python tools/chat_templates/compare.py --templates templates --program target/release/examples/render_chat

Three things are compared for every template and conversation:
- the text, with `apply_chat_template`; an error here for an error there;
- with generation marks, the learnt tokens, with `return_assistant_tokens_mask`;
- without them, the learnt tokens, with a reference in this file that knows each character's message: every word of
  every message is unique, so that it can be told who says what.
Needs transformers 5.23 (tools/fixtures/requirements.txt).
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
import tempfile
import unittest.mock
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

NOW = 1_760_000_000
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "The city"},
                                     "days": {"type": "array", "items": {"type": "integer"}}}, "required": ["city"]}}}]
CALL = [{"id": "call12345", "type": "function",
         "function": {"name": "get_weather", "arguments": {"city": "Zurich", "days": [1, 2]}}}]


def turn(role, content, **fields):
    return {"role": role, "content": content, **fields}


CONVERSATIONS = {
    "one turn": [turn("user", "Uone utwo"), turn("assistant", "Aone atwo!")],
    "two turns": [turn("user", "Uone?"), turn("assistant", "Aone."), turn("user", "Uthree?"), turn("assistant", "Afour.")],
    "system": [turn("system", "Sone."), turn("user", "Uone?"), turn("assistant", "Aone."), turn("user", "Utwo"),
               turn("assistant", "Atwo")],
    "reasoning": [turn("user", "Uone?"), turn("assistant", "Aone", reasoning_content="Athought."), turn("user", "Utwo?"),
                  turn("assistant", "Atwo", reasoning_content="Aagain.")],
    "tool calls": [turn("user", "Uone?"), turn("assistant", "", tool_calls=CALL),
                   turn("tool", "Tresult", name="get_weather", tool_call_id="call12345"), turn("assistant", "Aone.")],
    "tools, two turns": [turn("system", "Sone"), turn("user", "Uone?"), turn("assistant", "Afirst", tool_calls=CALL),
                         turn("tool", "Tresult", tool_call_id="call12345"), turn("assistant", "Aone."),
                         turn("user", "Utwo"), turn("assistant", "Atwo")],
    "parts": [turn("user", [{"type": "text", "text": "Uone "}, {"type": "text", "text": "utwo"}]),
              turn("assistant", [{"type": "text", "text": "Aone!"}])],
    "thought in the words": [turn("user", "Uone?"), turn("assistant", "<think>\nAthought\n</think>\n\nAone"),
                             turn("user", "Utwo"), turn("assistant", "<think>\nAagain\n</think>\n\nAtwo")],
    "assistant first": [turn("assistant", "Awelcome"), turn("user", "Uone"), turn("assistant", "Aone")],
    "two answers": [turn("user", "Uone"), turn("assistant", "Aone"), turn("assistant", "Atwo")],
}
WITH_TOOLS = {"tool calls", "tools, two turns"}
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def build_tokenizer(sources, folder):
    """Bytes, and every mark that the templates write as one token."""
    marks = set(NAMED.values()) | {"<think>", "</think>"}
    for source in sources:
        marks |= set(re.findall(r"<\|[^|<>\s{}']{1,40}\|>|<\uff5c[^<>\s{}']{1,40}\uff5c>|<(?:start|end)_of_\w+>|"
                                r"<\|?turn\|?>|\[/?INST\]|<\|[A-Z_]+\|>", source))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(mark, special="think" not in mark, normalized=False) for mark in sorted(marks)]
    tokenizer.add_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMED)
    fast.save_pretrained(folder)
    return fast, {mark for mark in marks if "think" not in mark}


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


def render(tokenizer, source, messages, tools, asking=False):
    with unittest.mock.patch.object(chat_template_utils, "datetime", Clock):
        return tokenizer.apply_chat_template(
            messages, chat_template=source, tools=tools, tokenize=False, add_generation_prompt=asking)


def expected_mask(tokenizer, source, messages, tools):
    # Rows of data are rendered today, here and there.
    encoded = tokenizer.apply_chat_template(
        messages, chat_template=source, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    return [(encoded["input_ids"], encoded["assistant_masks"])]


def words_of(message):
    """The words by which a message's own text is known."""
    content = message["content"] or ""
    if isinstance(content, list):
        content = " ".join(part["text"] for part in content)
    return re.findall(r"[A-Z]\w+", content)


def judge(tokenizer, special, messages, whole, sequences, ends):
    """What is wrong with the learnt tokens of a template without marks; nothing is ''.

    A turn's words are learnt exactly once over all sequences, with the special token that comes next (where the
    template ends turns by one); another's words are never learnt, and neither is a role's name. A turn that the template
    refuses to end a conversation with (`ends`) has no rendering of its own and may be left out.
    """
    learnt = []
    for ids, labels in sequences:
        pieces = [tokenizer.decode([token]) for token in ids]
        run = ""
        for piece, label in zip(pieces + [""], labels + [None]):
            if label is not None:
                run += piece
            elif run:
                learnt.append(run)
                run = ""
    text = "\n".join(learnt)
    for index, message in enumerate(messages):
        for word in words_of(message):
            count = len(re.findall(rf"\b{word}\b", text))
            if message["role"] != "assistant" and count:
                return f"`{word}` of {message['role']} is learnt"
            # A template may leave words out, and a thought.
            written = re.search(rf"\b{word}\b", whole) and ends(index + 1)
            if message["role"] == "assistant" and written and count != 1 and not re.search("thought|again", word):
                return f"`{word}` of assistant is learnt {count} times"
    for role in ("user", "system", "tool", "human"):
        if re.search(rf"(?<!to=)\b{role}\b|{role.upper()}", text):
            return f"the header of {role} is learnt"
    for run in learnt:
        # Behind the last special token nothing is learnt but the words of a turn that has no end of its own.
        tail = re.split("|".join(map(re.escape, sorted(special, key=len, reverse=True))), run)[-1]
        if tail != run and not tail.strip() and tail:
            return f"blanks behind a turn's end are learnt: {run!r}"
    return ""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--templates", type=Path, required=True)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    sources = {path.stem: path.read_text() for path in sorted(args.templates.glob("*.jinja"))}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer, special = build_tokenizer(sources.values(), folder)
        cases = [(name, title) for name in sources for title in CONVERSATIONS]
        rows = []
        for name, title in cases:
            rows.append(json.dumps({"template": sources[name], "messages": CONVERSATIONS[title], "now": NOW,
                                    "tools": TOOLS if title in WITH_TOOLS else None, "variables": NAMED}))
        done = subprocess.run([args.program, folder], input="\n".join(rows), capture_output=True, text=True, check=True)
    found = dict(zip(cases, map(json.loads, done.stdout.splitlines()), strict=True))
    table, wrong = {}, []
    for (name, title), answer in found.items():
        source, messages = sources[name], CONVERSATIONS[title]
        tools = TOOLS if title in WITH_TOOLS else None
        try:
            text = render(tokenizer, source, messages, tools)
        except Exception:
            text = None
        fault = ""
        if answer.get("text") != text:
            fault = f"text: {text!r} there, {answer.get('text', answer.get('error'))!r} here"
        marks = re.search(r"\{%-?\s*generation", source)
        cell = "refused" if text is None else "text"
        flat = title == "parts" and text is not None and not all(
            word in text and "'type'" not in text for message in messages for word in words_of(message))
        if not fault and text is not None and not flat:
            if "sequences" not in answer:
                fault = f"labels: {answer['sequences_error']}"
            elif marks:
                theirs = expected_mask(tokenizer, source, messages, tools)
                ours = [(ids, [int(label is not None) for label in labels]) for ids, labels in answer["sequences"]]
                fault = "" if theirs == ours else "labels: another mask than transformers'"
                cell = "text, mask"
            else:
                def ends(count):
                    try:
                        return render(tokenizer, source, messages[:count], tools) is not None
                    except Exception:
                        return False

                fault = judge(tokenizer, special, messages, text, answer["sequences"], ends)
                cell = "text, turns" if len(answer["sequences"]) == 1 else f"text, turns in {len(answer['sequences'])}"
        elif flat:
            cell = "text; flat"
        table[name, title] = "**differs**" if fault else cell
        if fault:
            wrong.append(f"{name}, {title}: {fault}")
    print("\n".join(wrong))
    print(f"{len(found) - len(wrong)} of {len(found)} equal ({len(sources)} templates)")
    if args.page:
        write_page(args.page, sources, table)
    sys.exit(bool(wrong))


def write_page(page, sources, table):
    lines = ["| template | " + " | ".join(CONVERSATIONS) + " |", "| --- |" + " --- |" * len(CONVERSATIONS)]
    for name in sources:
        lines.append(f"| {name} | " + " | ".join(table[name, title] for title in CONVERSATIONS) + " |")
    text = page.read_text()
    head = text[: text.index("<!-- table -->")]
    page.write_text(head + "<!-- table -->\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
